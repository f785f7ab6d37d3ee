"""The cause of an attempt's outcome is stored as a word, in every place that stores the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet

from email_integration import signals
from email_integration.delivery import cancel, discard
from email_integration.ledger import sql
from email_integration.ledger.steps import Row, Step
from email_integration.models import CircuitBreaker, Delivery, DeliveryAttempt, SendingPause
from email_integration.outcomes.causes import Cause
from email_integration.sending import relaying
from email_integration.smtpd import Fault, SMTPServer
from tests.claims import claimed, lose
from tests.deliveries import ago, attempt, pretend, submitted
from tests.relays import config_for, relay_to, wait_longest
from tests.scripted import ScriptedServer

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

KIM, LEE = "kim@example.com", "lee@example.com"


@pytest.fixture(autouse=True)
def _slow_to_try_again(task_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_longest(monkeypatch)


def tried(delivery: Delivery) -> Delivery:
    attempt(delivery.pk)
    return Delivery.objects.get(pk=delivery.pk)


@pytest.mark.parametrize(
    ("fault", "cause", "of_recipient"),
    [
        (Fault(verb="CONNECT", reply="554 5.7.1 Go away"), "client", None),
        (Fault(verb="CONNECT", drop=True), "connection_lost", None),
        (Fault(verb="AUTH", reply="535 5.7.8 No"), "login", None),
        (Fault(verb="MAIL", reply="451 4.7.1 Too many messages"), "limit", None),
        (Fault(verb="RCPT", reply="550 5.1.1 Who?"), "no_mailbox", "no_mailbox"),
        (Fault(verb="RCPT", reply="450 4.2.0 Later"), "busy", "busy"),
        (Fault(verb="DATA", reply="550 5.7.1 Spam"), "spam", "spam"),
        (Fault(verb="DOT", reply="554 5.2.2 mailbox full; STOREDRV.Submission.Exception"), "account_full", None),
        (Fault(verb="DOT", drop=True), "in_doubt", None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_cause_of_an_attempt_is_stored(
    smtp_server: Serve, fault: Fault, cause: str, of_recipient: str | None
) -> None:
    config_for(smtp_server(faults=[fault]))
    delivery = tried(submitted())
    assert (delivery.cause, delivery.attempt_log.get().cause) == (cause, cause)
    assert [row.cause for row in CircuitBreaker.objects.all()] in ([], [cause])
    assert delivery.recipients[0].get("cause") == of_recipient


def test_an_accepted_mail_has_no_cause_any_more(smtp_server: Serve) -> None:
    config_for(smtp_server(faults=[Fault(verb="RCPT", reply="450 4.2.0 Later", times=1)]))
    delivery = tried(submitted())
    assert delivery.cause == "busy"
    delivery = tried(pretend(delivery, due_at=ago(1)))
    assert (delivery.status, delivery.cause) == ("accepted", "")
    assert list(delivery.attempt_log.values_list("cause", flat=True)) == ["busy", ""]


def test_each_recipient_has_a_cause(smtp_server: Serve) -> None:
    """A mail that waits for some of its recipients has the cause of the first of them."""
    faults = [
        Fault(verb="RCPT", reply="550 5.1.1 Who?", match="kim@"),
        Fault(verb="RCPT", reply="452 4.2.2 Full", match="lee@", times=1),
    ]
    config_for(smtp_server(faults=faults))
    delivery = tried(submitted(KIM, LEE, "ann@example.com"))
    assert [item.get("cause") for item in delivery.recipients] == ["no_mailbox", "full", None]
    assert (delivery.status, delivery.cause) == ("deferred", "full")
    refused: list[Any] = []
    signals.recipient_refused.connect(lambda recipient, **more: refused.append(recipient["cause"]), weak=False)
    try:
        tried(submitted(KIM, LEE))
    finally:
        signals.recipient_refused.receivers.clear()
        signals.recipient_refused.sender_receivers_cache.clear()
    assert refused == ["no_mailbox"]


def test_without_a_server_there_is_a_cause_too(smtp_server: Serve, settings: Any) -> None:
    assert tried(submitted()).cause == "no_relay"
    SendingPause.begin(reason="moving house")
    assert tried(submitted()).cause == "paused"
    SendingPause.end()
    config_for(smtp_server())
    keys = [Fernet.generate_key().decode()]
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": keys}
    assert tried(submitted()).cause == "unusable"


def test_a_server_that_is_silent_or_speaks_nonsense_has_a_cause() -> None:
    with ScriptedServer(lambda talk: talk.say("SSH-2.0-OpenSSH_9.2")) as server:
        config_for(server)
        assert tried(submitted()).cause == "malformed"
    CircuitBreaker.objects.all().delete()
    assert tried(submitted()).cause == "not_connected"


def test_what_the_settings_withhold_has_a_cause(smtp_server: Serve, settings: Any) -> None:
    config_for(smtp_server())
    usual = settings.EMAIL_INTEGRATION
    settings.EMAIL_INTEGRATION = {**usual, "ALLOWED_RECIPIENTS": [LEE]}
    some, none = tried(submitted(KIM, LEE)), tried(submitted(KIM))
    assert (some.status, some.cause, some.recipients[0]["cause"]) == ("accepted", "", "withheld")
    assert (none.status, none.cause, none.attempt_log.get().cause) == ("failed", "withheld", "withheld")
    settings.EMAIL_INTEGRATION = {**usual, "ALLOWED_RECIPIENTS": "nonsense"}
    assert tried(submitted(KIM)).cause == "settings"


def test_an_error_of_our_own_has_a_cause(smtp_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    config_for(smtp_server())
    damaged = pretend(submitted(), recipients=5)
    assert (tried(damaged).status, tried(damaged).cause) == ("quarantined", "damaged")
    assert tried(pretend(submitted(), content_seal="nonsense")).cause == "content_unavailable"
    monkeypatch.setattr(relaying, "Transmitted", None)
    assert tried(submitted()).cause == "internal_error"


def test_an_end_without_an_attempt_has_a_cause() -> None:
    assert tried(submitted(expires_at=ago(1))).cause == "expired"
    settled = [{"address": KIM, "status": "failed", "reply": "", "reason": ""}]
    assert tried(pretend(submitted(), recipients=settled)).cause == "no_recipients"
    cancelled, doubtful = submitted(), pretend(submitted(), status="in_doubt")
    assert cancel(cancelled.pk)
    assert discard(doubtful.pk)
    found = [Delivery.objects.get(pk=one.pk) for one in (cancelled, doubtful)]
    assert [(one.cause, one.recipients[0]["cause"]) for one in found] == [("cancelled",) * 2, ("discarded",) * 2]


def test_a_lost_worker_is_the_cause_of_its_doubt() -> None:
    delivery = submitted()
    lose(claimed(delivery))
    delivery.refresh_from_db()
    assert (delivery.cause, DeliveryAttempt.objects.get().cause) == ("worker_lost", "worker_lost")


def test_any_cause_fits_into_the_rows(smtp_server: Serve) -> None:
    """This includes databases that enforce the length, and every code path that writes a cause."""
    here = relay_to(smtp_server())
    delivery = submitted()
    for cause in Cause:
        pretend(delivery, cause=cause, recipients=[{"address": KIM, "status": "failed", "cause": cause}])
        CircuitBreaker.objects.update_or_create(
            key="k", defaults={"smtp_config": here.name, "cause": cause, "probe_at": ago(1), "reason": cause.words}
        )
        stored = Delivery.objects.get(pk=delivery.pk)
        assert json.dumps([stored.cause, stored.recipients[0]["cause"]]) == json.dumps([cause.value] * 2)
        assert CircuitBreaker.objects.get().cause == cause


def test_a_row_that_names_no_cause_has_none() -> None:
    """Workers of the previous version insert such rows. The column has a database default."""
    pattern = submitted()
    fields = [field for field in Delivery._meta.concrete_fields if field.name not in ("id", "cause")]
    values = {field.name: getattr(pattern, field.attname) for field in fields}
    step = Step(pattern, {}, rows=lambda: [Row(model=Delivery, values={**values, "id": "of-the-version-before"})])
    assert sql.execute([step], using="default") == [True]
    assert Delivery.objects.get(pk="of-the-version-before").cause == ""
