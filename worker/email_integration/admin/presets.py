"""Settings of well-known servers that can fill the form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Text


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The values that one button fills in. A blank host leaves the field unchanged."""

    label: Text | str
    host: str
    port: int
    encryption: Literal["tls", "ssl"]
    hint: Text
    authentication: Literal["password", "oauth"] = "password"
    grant: str = ""
    endpoint: str = ""
    scope: str = ""


PRESETS = (
    Preset(
        label="Gmail",
        host="smtp.gmail.com",
        port=587,
        encryption="tls",
        hint=_("The username is the whole address; the password is an app password, made in the Google account."),
    ),
    Preset(
        label="Office 365",
        host="smtp.office365.com",
        port=587,
        encryption="tls",
        hint=_("The username is the whole address; 'Authenticated SMTP' must be on for the mailbox."),
    ),
    Preset(
        label="Google, OAuth",
        host="smtp.gmail.com",
        port=587,
        encryption="tls",
        hint=_(
            "The username is the whole address; the client comes from a project in Google Cloud. Save, and ask the "
            "owner of the mailbox for consent then."
        ),
        authentication="oauth",
        grant="refresh_token",
        endpoint="https://oauth2.googleapis.com/token",
    ),
    Preset(
        label=_("Google, service account"),
        host="smtp.gmail.com",
        port=587,
        encryption="tls",
        hint=_("The username is the mailbox that mail is sent from; put the whole JSON file into the private key."),
        authentication="oauth",
        grant="jwt_bearer",
        endpoint="https://oauth2.googleapis.com/token",
        scope="https://mail.google.com/",
    ),
    Preset(
        label="Microsoft 365, OAuth",
        host="smtp.office365.com",
        port=587,
        encryption="tls",
        hint=_(
            "Put the id of your tenant into the token endpoint. The username is the mailbox that mail is sent from."
        ),
        authentication="oauth",
        grant="client_credentials",
        endpoint="https://login.microsoftonline.com/TENANT/oauth2/v2.0/token",
        scope="https://outlook.office365.com/.default",
    ),
    Preset(
        label=_("Microsoft 365, OAuth for one mailbox"),
        host="smtp.office365.com",
        port=587,
        encryption="tls",
        hint=_(
            "Put the id of your tenant into the token endpoint. The username is the mailbox. Save, and ask its owner "
            "for consent then."
        ),
        authentication="oauth",
        grant="refresh_token",
        endpoint="https://login.microsoftonline.com/TENANT/oauth2/v2.0/token",
        scope="https://outlook.office.com/SMTP.Send offline_access",
    ),
    Preset(
        label="Amazon SES",
        host="email-smtp.us-east-1.amazonaws.com",
        port=587,
        encryption="tls",
        hint=_("Put your region into the host. Username and password are SMTP credentials, not access keys."),
    ),
    Preset(
        label=_("Custom, TLS"),
        host="",
        port=587,
        encryption="tls",
        hint=_("STARTTLS on port 587, as most providers have it."),
    ),
    Preset(
        label=_("Custom, SSL"),
        host="",
        port=465,
        encryption="ssl",
        hint=_("TLS from the start on port 465."),
    ),
)
