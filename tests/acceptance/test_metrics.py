"""The metrics of a real worker with two processes, compared with the ledger."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.mail import EmailMessage
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from config.local.processes import PATIENCE, free_port, wait_until
from config.local.workers import OF_MAIL
from email_integration import submit_many
from email_integration.models import FINAL, Delivery, DeliveryAttempt
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.stack import PATIENT, Stack

TOKEN = "for-prometheus"


def scrape(port: int) -> list[Sample]:
    """Return the metrics that a worker serves."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        page = response.read().decode()
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


def total(samples: list[Sample], name: str, *by: str) -> Counter[tuple[str, ...]]:
    """Return the sums of one metric, grouped by these labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for sample in samples:
        if sample.name == f"email_integration_{name}" and sample.value:
            found[tuple(sample.labels[label] for label in by)] += int(sample.value)
    return found


def is_settled() -> bool:
    return not Delivery.objects.exclude(status__in=FINAL).exists()


@pytest.mark.django_db(transaction=True)
def test_the_sums_of_two_processes_agree_with_the_ledger(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """Single mails and groups, accepted, deferred and refused. A request without the token gets no metrics."""
    port = free_port()
    refused = Fault(verb="RCPT", reply="550 5.1.1 no such user", times=3)
    put_off = Fault(verb="DOT", reply="451 4.3.0 no", times=3)
    activate(smtp_server(security="plain", user=None, faults=[refused, put_off]), name="First")
    current = stack(queues=OF_MAIL, env={**PATIENT, "WORKER_METRICS_PORT": str(port), "METRICS_TOKEN": TOKEN})
    for number in range(20):
        send_email.delay("One", "Text", to=[f"u{number}@example.com"], priority="high")
    wait_until(is_settled, what="the mails that were submitted one by one finished")
    activate(smtp_server(security="plain", user=None), name="Second")
    submit_many(EmailMessage("Many", "Text", to=[f"m{number}@example.com"]) for number in range(100))
    wait_until(is_settled, what="the group of mails finished")
    # An outcome is counted after its commit, a moment after it becomes visible.
    finished_in_all = Delivery.objects.filter(status__in=FINAL).count()
    wait_until(lambda: total(scrape(port), "finished_total").total() >= finished_in_all, what="the last mails counted")
    samples = scrape(port)

    attempts = Counter(DeliveryAttempt.objects.values_list("outcome", "smtp_config", "delivery__priority"))
    assert total(samples, "attempts_total", "outcome", "configuration", "priority") == attempts
    assert {key[0] for key in attempts} == {"accepted", "deferred", "failed"}
    finished = Counter(Delivery.objects.values_list("status", "smtp_config", "priority"))
    assert total(samples, "finished_total", "status", "configuration", "priority") == finished
    reasons = total(samples, "attempts_total", "reason")
    assert (reasons[("no_mailbox",)], reasons[("trouble",)]) == (3, 3)
    assert total(samples, "queueing_seconds_count", "priority").total() == attempts.total()
    assert total(samples, "transaction_seconds_count").total() >= finished.total() - 3
    assert total(samples, "connecting_seconds_count", "succeeded")[("yes",)] >= 2
    assert total(samples, "configuration_switches_total").total() >= 1
    assert total(samples, "sweep_seconds_count").total() >= 1
    # Both of the worker's processes have counted, so this is really a sum.
    assert len(set(DeliveryAttempt.objects.values_list("worker", flat=True))) == 2

    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE)
    text = "".join(str(sample) for sample in samples)
    assert "@" not in text

    (folder,) = folders(current)
    assert folder.is_dir()
    current.worker.end()
    assert not folder.exists()


def folders(current: Stack) -> list[Path]:
    """Return the folders in which the worker's processes keep their metrics."""
    maps = Path(f"/proc/{current.worker.pid}/maps").read_text()
    return sorted({Path(line.split()[-1]).parent for line in maps.splitlines() if line.endswith(".db")})
