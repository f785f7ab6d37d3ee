"""Diagnose the server of the configuration in force: its capabilities, and a test mail through it."""

from __future__ import annotations

import datetime as dt

from email_integration import conf, routing, validators
from email_integration.addresses import envelope_address
from email_integration.exceptions import InvalidMail
from email_integration.smtp import Relay
from email_integration.smtp.connection_test import Report, run_connection_test

from .advice import advise
from .configuration import wrong_with_settings
from .connection_test_mail import build_test_mail
from .findings import Finding, error, info, ok, warning

#: How long before its expiry a certificate causes a warning.
_EXPIRES_SOON = dt.timedelta(days=14)


def diagnose_server(relay: Relay, *, to: str | None) -> tuple[Report, Finding]:
    """Connect to ``relay``, log in and, unless ``to`` is empty or None, send a test mail to ``to``.

    Returns the report of the connection and the finding about it. Raises ``InvalidMail`` if ``to`` or the relay's
    sender is not an address.
    """
    mail = build_test_mail(relay, to=to) if to else None
    report = run_connection_test(relay, mail)
    failure = report.failure
    if failure is None:
        if mail is not None:
            taken = ", ".join(mail.envelope.recipients)
            instead = f" (REDIRECT_ALL_TO: sent to {taken} instead)" if conf.get("REDIRECT_ALL_TO") else ""
            return report, ok("smtp.test_email", f"Test email sent successfully to {to}{instead}")
        return report, ok("smtp.connection", f"Connected to {relay.host}:{relay.port}")
    said = f"{failure.reply.code} {failure.reply.text}" if failure.reply else failure.detail
    hint = str(advise(failure, relay).text)
    if report.connected:
        return report, error("smtp.test_email", f"The test email to {to} was not sent: {_one_line(said)}", hint)
    return report, error("smtp.connection", f"Mail cannot be sent through {relay}: {_one_line(said)}", hint)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def details(report: Report) -> list[Finding]:
    """Return findings about the connection: encryption, certificate, login, sender."""
    relay = report.relay
    return [*_encryption(report), *_name(report), *_login(report), _sender(relay)]


def _name(report: Report) -> list[Finding]:
    said = report.ehlo_name
    return [info("smtp.ehlo_name", f"This machine introduces itself as {said} (EHLO)")] if said else []


def _encryption(report: Report) -> list[Finding]:
    relay = report.relay
    found = [
        warning("smtp.encryption", text.rstrip("."), "Most servers support STARTTLS on port 587.")
        for text in validators.encryption_warnings(
            port=relay.port, logs_in=relay.logs_in, use_tls=relay.use_tls, use_ssl=relay.use_ssl
        )
    ]
    if report.tls_version:
        found.append(ok("smtp.encryption", f"The connection is encrypted ({report.tls_version})"))
    elif not found and report.failure is None:
        found.append(info("smtp.encryption", "The connection is not encrypted"))
    certificate = report.certificate
    if certificate is not None:
        expires = f"{certificate.expires:%Y-%m-%d}"
        text = f"The certificate of {certificate.subject}, issued by {certificate.issuer}, expires on {expires}"
        if certificate.expires - dt.datetime.now(dt.UTC) < _EXPIRES_SOON:
            found.append(warning("smtp.certificate", text, "The operator of the server has to renew it before then."))
        else:
            found.append(ok("smtp.certificate", text))
    return found


def _login(report: Report) -> list[Finding]:
    relay = report.relay
    if relay.username and not relay.logs_in:
        return [
            warning(
                "smtp.login",
                f"The user name {relay.username} has no password: mail is sent without logging in",
                "If the server requires a login, enter the password too.",
            )
        ]
    if relay.password and not relay.username:
        return [
            warning(
                "smtp.login",
                "There is a password but no user name: mail is sent without logging in",
                "If the server requires a login, enter the user name too.",
            )
        ]
    if not relay.logs_in:
        return [info("smtp.login", "There is no user name: mail is sent without logging in")]
    if report.mechanism and report.failure is None:
        return [ok("smtp.login", f"Logged in as {relay.username} ({report.mechanism})")]
    return []


def _sender(relay: Relay) -> Finding:
    try:
        domain = envelope_address(relay.from_email).rpartition("@")[2]
    except InvalidMail:
        return error(
            "smtp.sender",
            f"The sender {relay.from_email!r} is not an address",
            "Correct from_email, or DEFAULT_FROM_EMAIL if mail is sent through the server in the settings.",
        )
    text = f"Mail that names no sender is sent from {relay.from_email}"
    if "." not in domain:
        return warning(
            "smtp.sender", text, f"Few servers accept mail from “{domain}”: use an address of your own domain."
        )
    return ok("smtp.sender", text)


def diagnose_fallback() -> Finding:
    """Report which server sends mail if no configuration is active."""
    wrong = wrong_with_settings()
    if wrong:
        return warning(
            "fallback", f"Without an active configuration, mail would wait or fail: {wrong[0].text}", wrong[0].hint
        )
    route = routing.settings_relay()
    if isinstance(route, routing.Nowhere):
        return info("fallback", "Without an active configuration, mail would wait: the settings name no server")
    return ok(
        "fallback",
        f"Without an active configuration, mail would go through the server in the settings: {route.host}:{route.port}",
    )
