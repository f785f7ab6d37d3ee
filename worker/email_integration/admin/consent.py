"""The consent of a mailbox's owner: a page that explains it, the redirect to the provider, and the way back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.crypto import constant_time_compare
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration import references, web
from email_integration.exceptions import SecretUnreadable
from email_integration.fields import why_unreadable
from email_integration.models import SMTPConfig, audit
from email_integration.routing import consent, token_endpoint
from email_integration.routing.resolver import account_of
from email_integration.smtp import NoToken

from .refusing import MissingPermission
from .typing import ConfigModelAdmin

#: The session key of the only consent in progress.
_KEPT = "email_integration_consent"


class ConsentViews(ConfigModelAdmin):
    """Pages for users who may change the configuration, because a consent yields one of its secrets."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        name = "email_integration_smtpconfig_consent"
        return [
            path("<path:object_id>/consent/", view(self.consent_view), name=name),
            path("<path:object_id>/consent/begin/", view(self.consent_begin_view), name=f"{name}_begin"),
            path("<path:object_id>/consent/back/", view(self.consent_back_view), name=f"{name}_back"),
            *super().get_urls(),
        ]

    @admin.display(description=gettext_lazy("consent"))
    def consent(self, config: SMTPConfig) -> str:
        """Return the link from the configuration's page to the consent page."""
        text = _("Ask the owner of the mailbox for consent")
        return format_html('<a href="{}">{}</a>', _url("consent", config), text)

    def consent_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show what will happen, and what must be registered with the provider before."""
        config = self._asking(request, object_id)
        question = consent.question_of(config)
        redirect_uri = _redirect_uri(request, config)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Ask for consent: %(name)s") % {"name": config.name},
            "opts": self.opts,
            "config": config,
            "question": question,
            "redirect_uri": redirect_uri,
            "is_insecure": not web.is_url(redirect_uri),
        }
        return TemplateResponse(request, "email_integration/consent.html", context)

    def consent_begin_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Redirect to the provider.

        The session keeps the data that identifies the response, and forgets an earlier consent.
        """
        config = self._asking(request, object_id)
        question = consent.question_of(config)
        if not question.endpoint:
            return HttpResponseRedirect(_url("consent", config))
        pending = consent.PendingConsent.begin(config)
        request.session[_KEPT] = asdict(pending)
        redirect_uri = _redirect_uri(request, config)
        return HttpResponseRedirect(
            consent.address(question, pending, client_id=config.oauth_client_id, redirect_uri=redirect_uri)
        )

    def consent_back_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Accept the provider's response and redirect immediately, so that no page has the code in its address."""
        config = self._asking(request, object_id)
        kept = request.session.pop(_KEPT, None)
        wrong = _wrong_with(request.GET, config, consent.PendingConsent(**kept) if kept else None)
        if not wrong:
            wrong = _redeem(request, config, kept["verifier"])
        if wrong:
            self.message_user(request, wrong, messages.ERROR)
            return HttpResponseRedirect(_url("consent", config))
        text = _("The owner of the mailbox has consented: “%(name)s” has its refresh token now. Test the connection.")
        self.message_user(request, text % {"name": config.name}, messages.SUCCESS)
        return HttpResponseRedirect(_url("change", config))

    def _asking(self, request: HttpRequest, object_id: str) -> SMTPConfig:
        """Return the stored configuration.

        Raises ``Http404`` unless it logs in by a refresh token, which needs consent.
        """
        config: SMTPConfig | None = self.get_object(request, unquote(object_id))
        if not self.has_change_permission(request, config):
            raise MissingPermission("email_integration.change_smtpconfig")
        if config is None or not config.by_refresh_token:
            raise Http404
        return config


def _url(page: str, config: SMTPConfig) -> str:
    return reverse(f"admin:email_integration_smtpconfig_{page}", args=[config.pk])


def _redirect_uri(request: HttpRequest, config: SMTPConfig) -> str:
    """Return a URI of this configuration alone, against mix-up of providers' responses (RFC 9700 §4.4)."""
    return request.build_absolute_uri(_url("consent_back", config))


def _wrong_with(answer: Any, config: SMTPConfig, pending: consent.PendingConsent | None) -> str:
    """Return why a response is rejected (RFC 6749 §4.1.2), or '' if it is accepted."""
    is_ours = pending is not None and pending.config == str(config.pk)
    if pending is None or not is_ours or not constant_time_compare(pending.state, answer.get("state", "")):
        return _(
            "This answer belongs to no consent that was begun in this session, or it was taken before. Begin again."
        )
    if pending.is_over:
        return _("It took too long until the answer came, more than ten minutes. Begin again.")
    if pending.version != config.version:
        return _("“%(name)s” was changed meanwhile. Begin again.") % {"name": config.name}
    if "iss" in answer and not consent.is_issuer(answer["iss"], consent.question_of(config)):
        return _("The answer came from another provider than the one that was asked, and was not taken.")
    if "error" in answer:
        return str(_ERRORS.get(answer["error"], _NO_CONSENT))
    return "" if answer.get("code") else str(_NO_CONSENT)


_NO_CONSENT = gettext_lazy("The provider did not give consent, for no reason that is known here. Begin again.")

#: RFC 6749 §4.1.2.1. The provider's own texts are not shown, because anyone can put them into a URL.
_ERRORS = {
    "access_denied": gettext_lazy("The owner of the mailbox, or the rules of their organization, did not consent."),
    "unauthorized_client": gettext_lazy(
        "The provider does not let this client ask for consent: look at its registration."
    ),
    "invalid_scope": gettext_lazy("The provider does not know the scope: correct it."),
    "invalid_request": gettext_lazy(
        "The provider does not understand the question: check the authorization endpoint, the client id and the scope."
    ),
    "unsupported_response_type": gettext_lazy("The provider gives no codes to this client: look at its registration."),
    "server_error": gettext_lazy("Something is wrong at the provider. Try again later."),
    "temporarily_unavailable": gettext_lazy("The provider has no time at the moment. Try again later."),
}


def _redeem(request: HttpRequest, config: SMTPConfig, verifier: str) -> str:
    """Exchange the code for a refresh token and store it. Returns the error, or ''."""
    try:
        granted = token_endpoint.redeem(
            account_of(config),
            code=request.GET["code"],
            verifier=verifier,
            redirect_uri=_redirect_uri(request, config),
        )
    except NoToken as failure:
        return _("The owner has consented, but no token came of it: %(why)s. Begin again.") % {"why": failure.detail}
    except SecretUnreadable as error:
        return str(why_unreadable(error))
    if not granted.refresh_token:
        return _(
            "The owner has consented, but the provider gave no refresh token. Have the owner take back in their "
            "account what they have allowed this client, and begin again; some providers want offline_access in the "
            "scope."
        )
    with transaction.atomic(using=SMTPConfig.objects.db):
        SMTPConfig.objects.lock()
        if not SMTPConfig.objects.filter(pk=config.pk, updated_at=config.updated_at).exists():
            return _("“%(name)s” was changed meanwhile. Begin again.") % {"name": config.name}
        config.oauth_refresh_token = references.as_password(granted.refresh_token)
        config._history_user = request.user  # type: ignore[attr-defined]  # read by simple-history, as is the next
        config._change_reason = audit.CONSENT  # type: ignore[attr-defined]
        config.save(update_fields=["oauth_refresh_token", "updated_at"])
    return ""
