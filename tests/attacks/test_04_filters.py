"""A list of the admin can be filtered by the offered filters, and not by anything that its user may not see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.options import ModelAdmin
from django.test import RequestFactory
from django.urls import reverse

from email_integration.models import Delivery, ServerQuirks, SMTPConfig
from tests.deliveries import RecordingTaskQueue, ago, pretend, submitted
from tests.integration.admin_site import config, logged_in
from tests.stack import ROOT

pytestmark = pytest.mark.django_db

#: The models that have a list in the admin.
OURS = (Delivery, ServerQuirks, SMTPConfig)


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def list_of(model: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def everybody(name: str = "kim") -> Any:
    """Log in a user who may view everything except contents."""
    return logged_in("view_delivery", "view_smtpconfig", "view_serverquirks", name=name)


@pytest.mark.parametrize(
    "asked",
    [
        "recipients__0__address__startswith",
        "recipients__0__address",
        "recipients__icontains",
        "recipients__regex",
        "recipients__iregex",
        "recipients__0__reply__contains",
        "recipients__contains",
        "recipients__has_key",
        "from_header__startswith",
        "from_header",
        "sender__startswith",
        "redirected_to__startswith",
        "content__startswith",
        "content__regex",
        "content_size__gt",
        "content_file__startswith",
        "options__contains",
        "idempotency_key__startswith",
        "idempotency_key__regex",
        "idempotency_key__gt",
        "idempotency_key__lt",
        "idempotency_key__in",
        "idempotency_key",
        "id__startswith",
        "id__in",
        "pk__gt",
        "message_id__startswith",
        "traceparent__startswith",
        "worker__startswith",
        "smtp_config__startswith",
        "smtp_config__regex",
        "priority__gt",
        "cause__startswith",
        "reason__contains",
        "status__regex",
        "status",
        "status__exact__in",
        "status__in",
        "created_at",
        "created_at__year",
        "created_at__gte__lt",
        "attempt_log__reply__startswith",
        "attempt_log__isnull",
        "attempt_log",
        "attempt_log__delivery__recipients__0__address__startswith",
    ],
)
def test_deliveries_are_not_read_letter_by_letter(asked: str) -> None:
    submitted("kim@example.com", idempotency_key="order-7", from_email="boss@example.com")
    for number, permissions in enumerate((("view_delivery",), ("view_delivery", "view_delivery_content"))):
        client = logged_in(*permissions, name=f"kim{number}")
        for value in ("k", "zzz"):
            assert client.get(list_of(Delivery), {asked: value}).status_code == 400
            action = {"action": "cancel", "select_across": "1", "_selected_action": "1"}
            assert client.post(f"{list_of(Delivery)}?{asked}={value}", action).status_code == 400


@pytest.mark.parametrize(
    "asked",
    [
        "password__isnull",
        "password__startswith",
        "password",
        "oauth_client_secret__isnull",
        "oauth_private_key__regex",
        "oauth_refresh_token__gt",
        "tested_settings__startswith",
        "test_detail__contains",
        "ca_certificates__contains",
        "is_active__in",
        "is_active",
        "active_slot",
        "oauthtoken__access_token__startswith",
        "oauthtoken__error__startswith",
        "oauth_token__isnull",
        "name__startswith",
        "host__regex",
    ],
)
def test_configurations_are_not_read_letter_by_letter(asked: str) -> None:
    config()
    for value in ("g", "True"):
        assert everybody(f"kim-{value}").get(list_of(SMTPConfig), {asked: value}).status_code == 400


@pytest.mark.parametrize("model", OURS)
def test_no_column_can_be_filtered_by_that_is_not_offered(model: Any) -> None:
    """Try each field with each of its lookups, and names that are not fields."""
    shown = admin.site.get_model_admin(model)
    request = RequestFactory().get("/")
    offered = {
        "status__exact",
        "status__isnull",
        "created_at__gte",
        "created_at__lt",
        "finished_at__gte",
        *(f"{name}__{how}" for name in ("is_active", "use_tls", "use_ssl") for how in ("exact", "isnull")),
    }
    for field in model._meta.get_fields():
        lookups = getattr(field, "get_lookups", dict)()
        for lookup in ("", *(f"__{name}" for name in lookups), "__0__a__regex", "__date__gt", "__pk"):
            asked = f"{field.name}{lookup}"
            if asked not in offered | {"priority", "smtp_config", "cause"}:
                assert not shown.lookup_allowed(asked, "a", request), asked
    assert not shown.lookup_allowed("nothing__startswith", "a", request)


@pytest.mark.parametrize("model", OURS)
def test_each_admin_of_ours_has_the_defence(model: Any) -> None:
    """A newly added admin class must have the defence too."""
    registered = {
        of for of in admin.site._registry if of._meta.app_label == "email_integration" and of.__module__ != "history"
    }
    assert registered == set(OURS)
    assert type(admin.site.get_model_admin(model)).lookup_allowed is not ModelAdmin.lookup_allowed


def test_what_is_offered_is_looked_up() -> None:
    pretend(submitted("kim@example.com", delivery_id="one"), cause="busy", status="deferred")
    pretend(submitted("lee@example.com", delivery_id="two"), cause="full", status="failed", created_at=ago(3600))
    for number, permissions in enumerate((("view_delivery",), ("view_delivery", "view_delivery_content"))):
        client = logged_in(*permissions, name=f"kim{number}")
        for asked, value, found in (
            ("status__exact", "deferred", 1),
            ("status__exact", "queued", 0),
            ("created_at__gte", ago(60).isoformat(), 1),
            ("created_at__lt", ago(60).isoformat(), 1),
            ("finished_at__gte", ago(60).isoformat(), 0),
            ("priority", "normal", 2),
            ("priority", "high", 0),
            ("smtp_config", "Django settings", 0),
            ("cause", "busy", 1),
            ("cause", "full", 1),
            ("q", "one", 1),
        ):
            page = client.get(list_of(Delivery), {asked: value})
            assert page.status_code == 200, asked
            assert len(page.context["cl"].result_list) == found, asked


def test_each_link_of_list_and_dashboard_is_followed() -> None:
    """The links of the filters, the columns and the tiles: a user of the page needs no other address."""
    pretend(submitted("kim@example.com", delivery_id="one"), cause="busy", status="deferred", reason="busy (451)")
    config()
    client = logged_in("view_delivery", "view_smtpconfig", "view_serverquirks", "view_delivery_content")
    pages = [*(list_of(model) for model in OURS), reverse("admin:email_integration_dashboard")]
    followed = set()
    for page in pages:
        for link in re.findall(r'href="([^"]*\?[^"]*)"', client.get(page).content.decode()):
            address = unescape(link)
            address = f"{page}{address}" if address.startswith("?") else address
            if address.startswith("/admin/email_integration/"):
                followed.add(address)
                assert client.get(address).status_code == 200, address
    assert any("finished_at__gte" in address for address in followed)
    assert any("status__exact" in address for address in followed)


def test_a_search_without_the_permission_finds_no_address_and_no_part_of_an_id() -> None:
    submitted("kim@example.com", delivery_id="one-and-only", subject="Bill 17", idempotency_key="order-7")
    client = logged_in("view_delivery")
    for words in ("kim@example.com", "kim", "Bill", "order-7", "one-and", "", "one-and-only"):
        page = client.get(list_of(Delivery), {"q": words})
        assert len(page.context["cl"].result_list) == (words in ("", "one-and-only")), words


def test_no_order_shows_what_is_hidden() -> None:
    """Whichever column is requested, the order is that of the age or the id, which the page shows anyway."""
    for age, name in enumerate(("b", "a", "c")):
        made = submitted(f"{name}@example.com", delivery_id=name)
        pretend(made, created_at=ago(100 + age), attempts=(1, 2, 0)[age], worker="zyx"[age])
    client = logged_in("view_delivery")
    by_age, by_id = ["b", "a", "c"], ["a", "b", "c"]
    for number in range(-12, 13):
        page = client.get(list_of(Delivery), {"o": str(number)})
        assert page.status_code == 200
        found = [row.pk for row in page.context["cl"].result_list]
        assert found in (by_age, by_age[::-1], by_id, by_id[::-1]), number


def test_completion_finds_no_address() -> None:
    """Django's autocomplete view for foreign keys searches the deliveries that attempts belong to."""
    submitted("kim@example.com", delivery_id="one", subject="Bill 17")
    asked = {"app_label": "email_integration", "model_name": "deliveryattempt", "field_name": "delivery"}
    client = logged_in("view_delivery")
    for words in ("kim@", "Bill"):
        found = client.get(reverse("admin:autocomplete"), {**asked, "term": words}).json()
        assert found["results"] == []


@pytest.mark.parametrize("field", ["idempotency_key", "message_id", "from_header", "recipients", "content_file"])
def test_no_page_is_opened_by_another_field_than_the_key(field: str) -> None:
    submitted("kim@example.com", delivery_id="one", idempotency_key="order-7")
    address = reverse("admin:email_integration_delivery_change", args=["order-7"])
    client = logged_in("view_delivery")
    for asked in ({"_to_field": field}, {"_to_field": field, "_popup": "1"}):
        assert client.get(address, asked).status_code == 400
        assert client.get(list_of(Delivery), asked).status_code == 400


def test_counts_of_filters_show_nothing_else() -> None:
    config()
    page = everybody().get(list_of(SMTPConfig), {"_facets": "True"})
    assert page.status_code == 200
    assert everybody("lee").get(list_of(SMTPConfig), {"_facets": "True", "password__isnull": "1"}).status_code == 400


def test_the_history_takes_no_filter() -> None:
    stored = config()
    delivery = submitted("kim@example.com", idempotency_key="order-7")
    client = everybody()
    for kind, key in (("delivery", delivery.pk), ("smtpconfig", stored.pk)):
        address = reverse(f"admin:email_integration_{kind}_history", args=[key])
        pages = [
            client.get(address, asked).content
            for asked in ({}, {"idempotency_key__startswith": "z"}, {"password__isnull": "1"})
        ]
        assert b"kim@example.com" not in pages[0]
        assert {len(page) for page in pages} == {len(pages[0])}


def test_a_host_project_may_point_at_rows_by_what_it_has_written_itself() -> None:
    """Django's popup carries the ``limit_choices_to`` of the project's own foreign key in its address."""
    shown = admin.site.get_model_admin(SMTPConfig)
    SMTPConfig._meta.related_fkey_lookups.append({"host": "smtp.example.com"})
    try:
        assert shown.lookup_allowed("host", "smtp.example.com", RequestFactory().get("/"))
        assert not shown.lookup_allowed("host", "smtp.example.org", RequestFactory().get("/"))
    finally:
        SMTPConfig._meta.related_fkey_lookups.pop()


#: Printed by a process of a project with a second factor: the lookups that its device lists allow.
_OF_DEVICES = """
from django.contrib import admin
from django.test import RequestFactory
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
asked = ("key__startswith", "key__regex", "key", "drift__gt", "token_set__token__startswith", "token_set__isnull",
    "user__password__startswith", "confirmed__exact", "created_at__gte")
for model in (TOTPDevice, StaticDevice):
    shown = admin.site.get_model_admin(model)
    print(*(name for name in asked if shown.lookup_allowed(name, "a", RequestFactory().get("/"))))
"""


def test_the_secrets_of_second_factors_are_not_read_letter_by_letter() -> None:
    environment = {**os.environ, "ADMIN_REQUIRE_2FA": "true", "DJANGO_SETTINGS_MODULE": "tests.settings"}
    found = subprocess.run(
        [sys.executable, "manage.py", "shell", "--verbosity=0", "-c", _OF_DEVICES],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout.splitlines() == ["confirmed__exact created_at__gte"] * 2, found.stderr
