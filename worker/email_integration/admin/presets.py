"""Settings of well-known servers that can fill the form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Text


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The values that one button fills in. A blank host keeps a host that the user typed.

    A value that the user must complete has a word of ``validators.PLACEHOLDERS``, which is not saved.
    """

    label: Text | str
    host: str
    port: int
    encryption: Literal["starttls", "tls"]
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
        encryption="starttls",
        hint=_("The username is the whole address; the password is an app password, made in the Google account."),
    ),
    Preset(
        label="Office 365",
        host="smtp.office365.com",
        port=587,
        encryption="starttls",
        hint=_("The username is the whole address; 'Authenticated SMTP' must be on for the mailbox."),
    ),
    Preset(
        label="Google, OAuth",
        host="smtp.gmail.com",
        port=587,
        encryption="starttls",
        hint=_(
            "The username is the whole address; the client comes from a project in Google Cloud. Save, then ask the "
            "owner of the mailbox for consent."
        ),
        authentication="oauth",
        grant="refresh_token",
        endpoint="https://oauth2.googleapis.com/token",
    ),
    Preset(
        label=_("Google, service account"),
        host="smtp.gmail.com",
        port=587,
        encryption="starttls",
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
        encryption="starttls",
        hint=_(
            "Replace TENANT in the token endpoint with the id of your tenant. The username is the mailbox that mail is "
            "sent from."
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
        encryption="starttls",
        hint=_(
            "Replace TENANT in the token endpoint with the id of your tenant. The username is the mailbox. Save, then "
            "ask its owner for consent."
        ),
        authentication="oauth",
        grant="refresh_token",
        endpoint="https://login.microsoftonline.com/TENANT/oauth2/v2.0/token",
        scope="https://outlook.office.com/SMTP.Send offline_access",
    ),
    Preset(
        label="Amazon SES",
        host="email-smtp.REGION.amazonaws.com",
        port=587,
        encryption="starttls",
        hint=_(
            "Replace REGION in the host with the region of your account, such as eu-central-1. Username and password "
            "are SMTP credentials, not access keys."
        ),
    ),
    Preset(
        label=_("Custom, STARTTLS"),
        host="",
        port=587,
        encryption="starttls",
        hint=_("STARTTLS on port 587, which most providers use."),
    ),
    Preset(
        label=_("Custom, TLS"),
        host="",
        port=465,
        encryption="tls",
        hint=_("TLS from the start on port 465."),
    ),
)
