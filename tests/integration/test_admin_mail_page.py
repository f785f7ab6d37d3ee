"""The page of one mail in the admin: its title, its decisions, what it links to, and its next attempt."""

from __future__ import annotations

import datetime as dt
import re
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from email_integration.delivery import resend
from email_integration.models import CircuitBreaker, Delivery, DeliveryAttempt, SendingPause, Status
from email_integration.routing import active_relay, breaker
from email_integration.smtp import Relay
from tests.claims import claimed
from tests.deliveries import RecordingTaskQueue, ago, pretend, submitted

from .admin_site import config, logged_in, said

pytestmark = pytest.mark.django_db

SEES, DECIDES = ("view_delivery", "view_deliveryattempt", "view_delivery_content"), ("view_delivery", "change_delivery")
OVERRIDE = "\u202e"


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def page(client: Client, delivery: Delivery) -> str:
    response = client.get(reverse("admin:email_integration_delivery_change", args=[delivery.pk]))
    assert response.status_code == 200
    return unescape(response.content.decode()).replace("\xa0", " ")


def decide(client: Client, action: str, delivery: Delivery) -> Any:
    return client.post(reverse("admin:email_integration_delivery_decide", args=[delivery.pk]), {"action": action})


def decided(client: Client, action: str, delivery: Delivery) -> str:
    """Decide about a mail on its page, confirm it if the next page asks, and return the report.

    It comes back to the page of the mail.
    """
    response = decide(client, action, delivery)
    if response.status_code == 200:
        if not response.context["button"]:
            return "\n".join(response.context["reasons"])
        before = Delivery.objects.values().get(pk=delivery.pk)
        key = {"key": response.context["key"]}
        response = client.post(reverse("admin:email_integration_delivery_confirm"), key)
        assert Delivery.objects.values().get(pk=delivery.pk) != before or action == "resend"
    assert response["Location"] == reverse("admin:email_integration_delivery_change", args=[delivery.pk])
    return said(client.get(response["Location"]))


def offered(html: str) -> tuple[set[str], dict[str, str]]:
    """Return the decisions that are possible, and the reasons why the others are not."""
    possible, impossible = set(), {}
    for name, disabled, words in re.findall(
        r'name="action" value="(\w+)"[^>]*?( disabled)?>[^<]+</button></dt>\s*<dd[^>]*>([^<]+)</dd>', html
    ):
        if disabled:
            impossible[name] = words.strip()
        else:
            possible.add(name)
    return possible, impossible


def test_the_subject_is_the_title_with_the_permission_alone() -> None:
    delivery = submitted(subject="Your order 4711")
    assert "<h1><bdi>Your order 4711</bdi></h1>" in page(logged_in(*SEES), delivery)
    html = page(logged_in("view_delivery", name="lee"), delivery)
    assert "4711" not in html
    assert f"<h1><bdi>Mail {delivery.pk}</bdi></h1>" in html


def test_the_subject_is_the_title_after_acceptance_too() -> None:
    delivery = pretend(submitted(subject="Your order 4711"), status=Status.ACCEPTED, has_content=False, content=b"")
    assert "<h1><bdi>Your order 4711</bdi></h1>" in page(logged_in(*SEES), delivery)


def test_the_sender_is_decoded() -> None:
    delivery = submitted(from_email="Stadtwerke München <a@example.com>")
    assert "=?utf-8?" in delivery.from_header
    html = page(logged_in(*SEES), delivery)
    assert '<bdi>Stadtwerke München <<span class="email-address">a@example.com</span>></bdi>' in html
    assert "=?utf-8?" not in html


def test_every_status_is_in_the_language_of_the_page() -> None:
    """That of the mail in the breadcrumbs, and that of each recipient."""
    items = [{"address": f"{status}@example.com", "status": status} for status in ("pending", "accepted", "failed")]
    delivery = pretend(submitted(), status=Status.IN_DOUBT, recipients=items)
    client = logged_in(*SEES)
    client.cookies["django_language"] = "de"
    html = page(client, delivery)
    for words in ("pending</bdi>: ausstehend", "accepted</bdi>: angenommen", "failed</bdi>: gescheitert"):
        assert words.replace("</bdi>", "@example.com</span></bdi>") in html
    assert f"{delivery.pk} (im Zweifel)" in html
    assert "(in_doubt)" not in html


def test_letters_of_another_direction_have_no_effect_outside_their_text() -> None:
    """A right-to-left override in a subject, an address, a reply or a name stays in its own element."""
    subject, name = f"Invoice {OVERRIDE}fdp", f"Kim {OVERRIDE}mik <a@example.com>"
    delivery, unchanged = submitted(subject=subject), submitted(subject=subject)
    reply = f"No {OVERRIDE}on"
    item = {"address": f"kim{OVERRIDE}@example.com", "status": "failed", "code": 550, "reply": reply}
    pretend(delivery, recipients=[item], from_header=name, redirected_to=f"lee{OVERRIDE}@example.com")
    DeliveryAttempt.objects.create(
        delivery=delivery, number=1, started_at=timezone.now(), outcome=Status.FAILED, reply=reply
    )
    client = logged_in(*SEES)
    for view, args in (("changelist", ()), ("change", (delivery.pk,)), ("content", (unchanged.pk,))):
        html = client.get(reverse(f"admin:email_integration_delivery_{view}", args=args)).content.decode()
        assert OVERRIDE in html
        isolates = html.replace("&#x2068;", "\u2068").replace("&#x2069;", "\u2069")
        kept = re.sub(r"<bdi[^>]*>.*?</bdi>|<title>\s*\u2068[^<]*\u2069[^<]*</title>", "", isolates)
        text = re.sub(r"<[^>]*>", "", kept)  # an attribute is not displayed in the text
        assert OVERRIDE not in text


@pytest.mark.parametrize(
    ("status", "possible"),
    [
        (Status.QUEUED, {"cancel", "send_now", "resend"}),
        (Status.DEFERRED, {"cancel", "send_now", "resend"}),
        (Status.IN_DOUBT, {"cancel", "release", "discard", "resend"}),
        (Status.QUARANTINED, {"send_now", "resend"}),
        (Status.FAILED, {"resend"}),
        (Status.ACCEPTED, {"resend"}),
    ],
)
def test_the_page_offers_what_is_possible_and_gives_the_reason_for_the_rest(status: Status, possible: set[str]) -> None:
    """What it offers succeeds, and what it does not offer would change nothing."""
    client = logged_in(*DECIDES)
    found, impossible = offered(page(client, pretend(submitted(), status=status)))
    assert found == possible
    assert found | impossible.keys() == {"cancel", "send_now", "release", "discard", "resend"}
    assert all(words.startswith("Not possible: ") and words.endswith(".") for words in impossible.values())
    for action in found | impossible.keys():
        delivery = pretend(submitted(), status=status)
        text = decided(client, action, delivery)
        if action == "send_now" and status == Status.IN_DOUBT:
            continue  # the same as to send it again
        assert ("not changed" in text or "not be changed" in text) == (action in impossible), (action, text)


def test_what_is_being_sent_or_has_no_content_is_explained() -> None:
    client = logged_in(*DECIDES)
    sending = submitted()
    claimed(sending)
    found, why = offered(page(client, sending))
    assert found == {"cancel"}
    assert why["send_now"] == why["resend"] == "Not possible: It is being sent right now."
    gone = pretend(submitted(), status=Status.FAILED, has_content=False)
    assert offered(page(client, gone))[1]["resend"] == "Not possible: Its content has been deleted."


def test_decisions_take_the_permission_to_change() -> None:
    delivery = submitted()
    viewer = logged_in("view_delivery")
    assert offered(page(viewer, delivery)) == (set(), {})
    for action in ("cancel", "send_now", "release", "discard", "resend", "delete_selected", "nonsense"):
        assert decide(viewer, action, delivery).status_code == 403
    client = logged_in(*DECIDES, name="lee")
    assert decide(client, "delete_selected", delivery).status_code == 403
    address = reverse("admin:email_integration_delivery_decide", args=[delivery.pk])
    assert client.get(address).status_code == 403
    assert Client(enforce_csrf_checks=True).post(address, {"action": "cancel"}).status_code == 403
    assert decide(client, "cancel", Delivery(pk="other")).status_code == 404
    assert Delivery.objects.get().status == Status.QUEUED
    assert "Cancel 1 mail?" in decide(client, "cancel", delivery).content.decode()
    assert Delivery.objects.get().status == Status.QUEUED
    assert decided(client, "cancel", delivery) == "1 mail was cancelled."
    assert Delivery.objects.get().status == Status.CANCELLED
    entries = LogEntry.objects.filter(object_id=delivery.pk)
    assert [entry.get_change_message() for entry in entries] == ["Cancelled."]


@pytest.mark.parametrize("status", [Status.IN_DOUBT, Status.QUARANTINED])
def test_where_a_person_must_decide_the_page_explains_it(status: Status) -> None:
    client = logged_in("view_delivery")
    assert "A person must decide." in page(client, pretend(submitted(), status=status))
    assert "A person must decide." not in page(client, submitted())


def test_the_copy_the_original_and_the_configuration_are_linked() -> None:
    used = config("Primary")
    original = pretend(submitted(), status=Status.FAILED, smtp_config="Primary")
    copy = resend(original.pk)
    link = f'href="{reverse("admin:email_integration_smtpconfig_change", args=[used.pk])}"'
    pages = {one.pk: reverse("admin:email_integration_delivery_change", args=[one.pk]) for one in (original, copy)}
    client = logged_in("view_delivery", "view_smtpconfig")
    html = page(client, original)
    assert f'href="{pages[copy.pk]}"' in html.split("Copies of this mail:")[1]
    assert link in html
    assert f'href="{pages[original.pk]}"' in page(client, copy).split("This is a copy of:")[1]
    assert link not in page(logged_in("view_delivery", name="lee"), original)
    original.delete()
    assert "This is a copy of a mail that has been deleted." in page(client, copy)


def open_breaker(*, probe_in: float) -> CircuitBreaker:
    relay = active_relay()
    assert isinstance(relay, Relay)
    probe_at = timezone.now() + dt.timedelta(seconds=probe_in)
    return CircuitBreaker.objects.create(
        key=breaker.key(relay), smtp_config=relay.name, host=relay.host, probe_at=probe_at, reason="connection refused"
    )


def test_the_next_attempt_has_its_reason() -> None:
    client = logged_in("view_delivery")
    no_server = submitted()
    assert "No server can be used." in page(client, no_server)
    config("Primary", is_active=True)
    assert "sent as soon as a worker takes it" in page(client, submitted())
    later = timezone.now() + dt.timedelta(hours=2)
    assert "The application asked to send it then." in page(client, pretend(submitted(), due_at=later))
    reason = "the server asks us to come back later: greylisting (451)"
    waiting = pretend(submitted(), due_at=later, status=Status.DEFERRED, reason=reason)
    assert f"Deferred: {reason}." in page(client, waiting)
    open_breaker(probe_in=60)
    assert "The server of “Primary” is not working: connection refused." in page(client, waiting)
    SendingPause.begin()
    assert "The mail is held until sending is resumed." in page(client, waiting)
    for status in (Status.ACCEPTED, Status.IN_DOUBT):
        assert "Next attempt" not in page(client, pretend(submitted(), status=status))


def test_a_mail_that_waits_for_the_server_is_next_tried_when_the_server_is() -> None:
    """The page gives the time that the notice about the server gives, not the mail's own."""
    from email_integration.admin.next_tries import next_try

    config("Primary", is_active=True)
    tripped = open_breaker(probe_in=60)
    later = timezone.now() + dt.timedelta(hours=2)
    waits = pretend(submitted(), status=Status.DEFERRED, due_at=later, waits_for_relay=True)
    own = pretend(submitted(), status=Status.DEFERRED, due_at=later)
    found = [next_try(one) for one in (waits, own)]
    assert [one.at if one else None for one in found] == [tripped.probe_at, later]


def test_the_page_costs_the_same_for_many_copies(django_assert_max_num_queries: Any) -> None:
    original = submitted()
    for _ in range(30):
        pretend(submitted(), copy_of=original.pk, created_at=ago(10))
    client = logged_in(*SEES, *DECIDES)
    with django_assert_max_num_queries(25):
        assert page(client, original).count('/change/">') <= 25
