"""Test a connection, with the unsaved settings of the page or with the stored settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _

from email_integration import validators
from email_integration.addresses import envelope_address
from email_integration.diagnosis.advice import Advice, advise
from email_integration.diagnosis.connection_test_mail import build_test_mail
from email_integration.exceptions import InvalidMail, SecretUnavailable, SecretUnreadable
from email_integration.fields import why_unreadable
from email_integration.models import SMTPConfig, audit
from email_integration.routing import relay_of
from email_integration.sending import sandbox
from email_integration.smtp import Relay
from email_integration.smtp.connection_test import ConnectionTestMail, Report, run_connection_test

from .forms import ConnectionTestForm, TestAddressForm
from .refusing import MissingPermission
from .session_tests import SessionTests
from .typing import ConfigModelAdmin


@dataclass(frozen=True, kw_only=True)
class ConnectionTest:
    """The result of one test: a report, or the ``problems`` that prevented it."""

    report: Report | None = None
    advice: Advice | None = None
    problems: tuple[str, ...] = ()
    #: Further remarks about a completed test.
    notes: tuple[str, ...] = ()
    sent_to: str = ""
    #: The digest of unsaved settings that were tested.
    settings: str = field(default="", repr=False)


def run(relay: Relay, *, send_to: str | None) -> ConnectionTest:
    """Test ``relay``, with a mail to the address ``send_to`` unless it is None."""
    mail: ConnectionTestMail | None = None
    if send_to is not None:
        if not send_to:
            return ConnectionTest(
                problems=(_("Your account has no mail address to send a test mail to: add one to it first."),)
            )
        try:
            mail = build_test_mail(relay, to=send_to)
        except InvalidMail:
            return ConnectionTest(problems=(_why_no_mail(send_to),))
    report = run_connection_test(relay, mail)
    found = advise(report.failure, relay) if report.failure is not None else None
    notes = validators.login_warnings(
        username=relay.username, password=bool(relay.password), by_token=relay.tokens is not None
    )
    return ConnectionTest(report=report, advice=found, notes=tuple(notes), sent_to=send_to or "")


def _why_no_mail(send_to: str) -> str:
    """Return why a test mail to ``send_to`` is impossible, in words for users.

    The text of ``InvalidMail`` is for programmers.
    """
    try:
        recipient = envelope_address(send_to)
    except InvalidMail:
        return _("The address %(address)s cannot be written to. Correct it first.") % {"address": send_to}
    try:
        plan = sandbox.plan_now([recipient])
    except ImproperlyConfigured:
        return _(
            "REDIRECT_ALL_TO or ALLOWED_RECIPIENTS in the settings of this project is malformed: no mail goes out."
        )
    if not plan.envelope:
        return _("ALLOWED_RECIPIENTS in the settings of this project allows no mail to %(address)s.") % {
            "address": send_to
        }
    return _("The sender is no address that mail can come from: correct the from email.")


def run_stored(config: SMTPConfig, *, user: Any, send_to: str | None = None) -> ConnectionTest:
    """Test a configuration with its stored settings, and store the result."""
    try:
        relay = relay_of(config, anew=True)
    except SecretUnavailable as error:
        config.record_test(passed=False, detail=str(error), user=user)
        return ConnectionTest(problems=(str(error),))
    except SecretUnreadable as error:
        config.record_test(passed=False, detail=_("the password is unreadable"), user=user)
        return ConnectionTest(problems=(str(why_unreadable(error)),))
    test = run(relay, send_to=send_to)
    _record(config, test, user)
    return test


def run_typed(config: SMTPConfig | None, data: Any, *, user: Any, send_to: str | None = None) -> ConnectionTest:
    """Test the settings in ``data``, which may be unsaved.

    The stored password replaces a blank one only for the same host, port and user.
    """
    form = ConnectionTestForm(data, instance=config, sends=send_to is not None)
    if not form.is_valid():
        labels = {name: field.label for name, field in form.fields.items()}
        again = (str(validators.PASSWORD_AGAIN), str(validators.SECRET_AGAIN))
        return ConnectionTest(
            problems=tuple(
                f"{labels[name]}: {text}" if name in labels and text not in again else str(text)
                for name, texts in form.errors.items()
                for text in texts
            )
        )
    typed = form.instance
    typed.name = typed.name or typed.host
    stored = SMTPConfig.objects.filter(pk=typed.pk).first() if typed.pk else None
    is_stored = stored is not None and stored.is_readable and stored.settings_digest() == typed.settings_digest()
    try:
        relay = relay_of(typed, anew=True, keeps_token=is_stored)
    except SecretUnavailable as error:
        return ConnectionTest(problems=(str(error),))
    except SecretUnreadable as error:
        if stored is not None:
            _note_unsaved(stored, typed, "failed: the password is unreadable", user)
        return ConnectionTest(problems=(str(why_unreadable(error)),))
    test = replace(run(relay, send_to=send_to), settings=typed.settings_digest())
    if stored is not None and is_stored:
        _record(stored, test, user)
    elif stored is not None and test.report is not None:
        outcome = "passed" if test.report.connected else f"failed {test.report.summary}"
        _note_unsaved(stored, relay, outcome, user)
    return test


def _record(config: SMTPConfig, test: ConnectionTest, user: Any) -> None:
    if test.report is not None:
        config.record_test(passed=test.report.connected, detail=test.report.summary, user=user)


def _note_unsaved(stored: SMTPConfig, tried: Relay | SMTPConfig, outcome: str, user: Any) -> None:
    """Record in the history of ``stored`` a test of other settings, which is no result for the stored ones."""
    host = tried.host if len(tried.host) <= _HOST else f"{tried.host[: _HOST - 1]}…"
    reason = f"unsaved settings: {host}:{tried.port}, {outcome}"
    audit.note(stored, audit.Event.TESTED, user=user, reason=reason)


#: Longest host name in a reason, in characters. A reason has 100 characters, and contains the outcome too.
_HOST = 45


class ConnectionTestViews(ConfigModelAdmin):
    """The URLs behind the buttons. Users without the test permission get 403."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("add/test/", view(self.test_view), name="email_integration_smtpconfig_test_new"),
            path("<path:object_id>/test/", view(self.test_view), name="email_integration_smtpconfig_test"),
            *super().get_urls(),
        ]

    def has_test_permission(self, request: HttpRequest) -> bool:
        """Return whether the user has the separate permission to test."""
        return request.user.has_perm("email_integration.test_smtpconfig")

    def test_view(self, request: HttpRequest, object_id: str | None = None) -> HttpResponse:
        """Run the test. The response is a fragment for the page's script, or a page for a browser without it."""
        config = self.get_object(request, object_id) if object_id is not None else None
        # Permissions first: the answer to a user without them does not depend on whether the object exists.
        may_look = self.has_add_permission(request) if object_id is None else self.has_view_permission(request, config)
        if request.method != "POST" or not may_look:
            raise PermissionDenied
        if not self.has_test_permission(request):
            raise MissingPermission("email_integration.test_smtpconfig")
        if object_id is not None and config is None:
            raise Http404
        test = self._run(request, config)
        fragment = request.headers.get("X-Requested-With") == "fetch"
        template = (
            "email_integration/connection_test.html" if fragment else "email_integration/connection_test_page.html"
        )
        context = {
            **self.admin_site.each_context(request),
            "title": _("Connection test"),
            "opts": self.opts,
            "config": config,
            "test": test,
        }
        return TemplateResponse(request, template, context)

    def _run(self, request: HttpRequest, config: SMTPConfig | None) -> ConnectionTest:
        """Test what the page has sent, and keep the result in the session."""
        send_to = None
        if "send" in request.POST:
            own = getattr(request.user, "email", "")
            send_to = request.POST.get("test_address", "").strip() or own
            form = TestAddressForm({"test_address": send_to})
            if send_to != own and not form.is_valid():
                return ConnectionTest(problems=tuple(map(str, form.errors["test_address"])))
        if config is not None and not self.has_change_permission(request, config):
            # Ignore the submitted values, so that the stored password is sent only to its own server.
            test = run_stored(config, user=request.user, send_to=send_to)
        else:
            test = run_typed(config, request.POST, user=request.user, send_to=send_to)
            if test.report is not None:
                report = test.report
                SessionTests(request).note(test.settings, passed=report.connected, detail=report.summary)
        self.note_recipient(request, config, test)
        return test

    def note_recipient(self, request: HttpRequest, config: SMTPConfig | None, test: ConnectionTest) -> None:
        """Record that a test mail went to an address other than the user's: its domain, as a history shows no address.

        A test without a configuration is recorded in the log of the admin.
        """
        if test.report is None or not test.sent_to or test.sent_to == getattr(request.user, "email", ""):
            return
        reason = f"test mail to another address, at {test.sent_to.rpartition('@')[2]}"
        if config is not None:
            audit.note(config, audit.Event.TESTED, user=request.user, reason=reason)
            return
        user: Any = request.user
        LogEntry.objects.create(
            user=user,
            content_type=ContentType.objects.get_for_model(SMTPConfig, for_concrete_model=False),
            object_repr=f"{test.report.relay.host}:{test.report.relay.port}"[:200],
            action_flag=CHANGE,
            change_message=reason,
        )
