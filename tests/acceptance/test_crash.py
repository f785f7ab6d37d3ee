"""Workers that end during a load, gracefully or killed: no mail is lost, and only mails in doubt can arrive twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from django.db.models import Sum

from config.local.processes import wait_until
from config.local.valkey import Valkey
from email_integration import conf
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests.stack import PATIENT, Stack

Start = Callable[..., Stack]

#: The server stores each mail this long before it replies, so a mail of a killed worker is likely to be in doubt.
SLOW_REPLY = Fault(verb="DOT", delay=0.03)


def submit(mails: int) -> None:
    for number in range(mails):
        send_email.delay(f"Mail {number}", "Text", to=["kim@example.com"])


def arrived(server: SMTPServer) -> Counter[str]:
    return Counter(message.message_id for message in server.messages)


def states() -> Counter[str]:
    return Counter(Delivery.objects.values_list("status", flat=True))


def duplicates(server: SMTPServer) -> int:
    return len(server.messages) - len(arrived(server))


@pytest.mark.parametrize(("policy", "mails"), [("resend", 200), pytest.param("hold", 80, marks=pytest.mark.extra)])
def test_a_worker_killed_amid_its_mails_loses_none(stack: Start, server: SMTPServer, policy: str, mails: int) -> None:
    """Only a mail between its final dot and the reply can arrive twice or be held: at most one for each session."""
    server.inject(SLOW_REPLY)
    running = stack(env={"IN_DOUBT": policy})
    submit(mails)
    wait_until(lambda: len(server.messages) >= mails // 4, what="a quarter of the mails")
    running.kill_worker()
    running.start_worker()
    wait_until(
        lambda: states().keys() <= {"accepted", "in_doubt"} and states().total() == mails,
        what="all mails finished",
    )
    counted = states()
    print(f"{policy}: {counted}, {duplicates(server)} duplicates")
    got, accepted = arrived(server), Delivery.objects.filter(status="accepted")
    assert set(accepted.values_list("message_id", flat=True)) <= set(got)
    if policy == "resend":
        assert counted == {"accepted": mails}
        assert len(got) == mails
        assert duplicates(server) <= running.concurrency * conf.get("SESSIONS")
    else:
        # A held mail may or may not have arrived: that is the doubt.
        assert counted["in_doubt"] <= running.concurrency * conf.get("SESSIONS")
        assert duplicates(server) == 0
        assert not Delivery.objects.filter(status="in_doubt", next_at__isnull=False).exists()


def test_a_worker_that_is_asked_to_end_loses_and_doubles_nothing(stack: Start, server: SMTPServer) -> None:
    """The worker finishes the mails that it has begun; the next worker sends the rest."""
    server.inject(SLOW_REPLY)
    running = stack(beat=False, env=PATIENT)
    submit(60)
    wait_until(lambda: len(server.messages) >= 15, what="15 mails")
    running.restart_worker()
    wait_until(lambda: states() == {"accepted": 60}, what="60 mails accepted")
    assert len(arrived(server)) == 60
    assert duplicates(server) == 0
    assert Delivery.objects.aggregate(Sum("attempts"))["attempts__sum"] == 60
    first_worker = [session for session in server.sessions if not session.is_open]
    assert all(session.verbs[-1] == "QUIT" for session in first_worker)


def test_a_worker_that_starts_sweeps_what_waits(stack: Start, server: SMTPServer, valkey: Valkey) -> None:
    """The wake-ups are lost and beat does not run, but the mails leave when a worker starts."""
    submit(5)
    valkey.flush()
    stack(beat=False)
    wait_until(lambda: states() == {"accepted": 5}, what="5 mails accepted")
    assert duplicates(server) == 0
