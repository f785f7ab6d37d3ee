"""Async views under a real ASGI server: transactions hold, and the event loop is not blocked."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from config.local.processes import LOOPBACK, PATIENCE, Process, free_port, wait_until
from email_integration.models import Delivery
from email_integration.smtpd import SMTPServer
from tests.acceptance.conftest import Activate
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.extra

Get = Callable[[str], Any]


@pytest.fixture
def get(transactional_db: None, fresh_process: None, tmp_path: Path) -> Iterator[Get]:
    """Request a view of ``tests.acceptance.asgi_views``. Uvicorn serves it with the test's database and broker."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "django.core.asgi:get_asgi_application"]
    process = Process(
        "uvicorn",
        [*command, "--host", LOOPBACK, "--port", str(port), "--lifespan", "off"],
        log=tmp_path / "uvicorn.log",
        env={"DJANGO_SETTINGS_MODULE": "tests.acceptance.asgi_settings"},
        cwd=ROOT,
    )

    def get(path: str) -> Any:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/{path}", timeout=PATIENCE) as answer:
            return json.load(answer)

    try:
        process.wait_for_log("Uvicorn running on")
        yield get
    finally:
        process.end()


def test_a_rollback_takes_the_mail_back_and_a_commit_sends_it(
    get: Get, stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    server = smtp_server()
    activate(server)
    stack()
    rolled_back, committed = get("submit/rollback"), get("submit/commit")
    wait_until(lambda: Delivery.objects.filter(status="accepted").exists(), what="the mail accepted")
    assert [delivery.pk for delivery in Delivery.objects.all()] == [committed["id"]]
    assert [message.subject for message in server.messages] == ["commit"]
    assert rolled_back["id"] != committed["id"]


def test_the_event_loop_goes_on_while_the_database_keeps_a_mail_waiting(
    get: Get, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another transaction holds a lock that the submission needs until other requests have been answered."""
    quick = get("submit/commit")
    with ThreadPoolExecutor() as executor:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("UPDATE email_integration_delivery SET status = status")
                if connection.vendor == "postgresql":
                    cursor.execute("LOCK TABLE email_integration_delivery IN ACCESS EXCLUSIVE MODE")
            waiting = executor.submit(get, "submit/commit")
            wait_until(lambda: any(looks > 20 for looks in get("alive")["looks"]), what="the event loop continues")
            assert not waiting.done()
        slow = waiting.result(PATIENCE)
    assert Delivery.objects.count() == 2
    with capsys.disabled():
        longest = [f"{1000 * answer['longest']:.1f} ms in {answer['pauses']} looks" for answer in (quick, slow)]
        print(f"\nlongest pause of the event loop: {longest[0]} of a submission, {longest[1]} of one that waits")


def test_the_sync_function_names_what_an_async_view_must_await(get: Get) -> None:
    said = get("wrong")
    assert said["error"] == "SynchronousOnlyOperation"
    assert "await email_integration.asend_email()" in said["text"]
    assert not Delivery.objects.exists()
