"""The examples of docs/canvas.md as one module, run in a real worker and in the calling process."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import current_app
from celery.exceptions import ChordError
from celery.result import AsyncResult
from django.core.cache import cache

from config.local.processes import PATIENCE, wait_until
from email_integration.exceptions import DeliveryFailed
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from tests.acceptance.test_secrecy import broker_contents
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.extra

KIM = "kim@example.com"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module made from the code blocks of the page."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "canvas.md").read_text(), re.S)
    (tmp_path / "shop_tasks.py").write_text("\n\n".join(blocks))
    spec = importlib.util.spec_from_file_location("shop_tasks", tmp_path / "shop_tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "shop_tasks", module)
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in current_app.tasks if name.startswith("shop_tasks.")]:
        current_app.tasks.unregister(name)


@pytest.fixture
def worker(stack: Callable[..., Stack], shop: ModuleType, tmp_path: Path) -> Stack:
    """A worker that knows the module."""
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.settings",
        "ACCEPTANCE_INCLUDE": "shop_tasks",
        "PYTHONPATH": f"{tmp_path}:{ROOT / 'worker'}",
    }
    return stack(env=env)


def noted(order: str) -> Any:
    return wait_until(lambda: cache.get(f"order-{order}"), what=f"the note of order {order}")


def failure(result: AsyncResult[Any]) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        result.get(timeout=PATIENCE)
    return caught.value


def test_the_examples_do_what_the_page_says(server: SMTPServer, shop: Any, worker: Stack) -> None:
    server.inject(Fault(verb="RCPT", reply="550 5.1.1 unknown", match="unknown@"))

    assert shop.invoice("1", KIM).get(timeout=PATIENCE) is None
    assert noted("1")["status"] == "accepted"

    delivery_id = shop.invoice_in_confidence("2", KIM)
    assert noted("2")["id"] == delivery_id
    assert AsyncResult(delivery_id).get(timeout=PATIENCE)["status"] == "accepted"

    offered = shop.offer("unknown@example.com")
    assert failure(offered).status == "failed"
    wait_until(lambda: cache.get("failed") == [offered.id, 550, "failed"], what="the task notify_sales")

    shop.newsletter([KIM, "lee@example.com"]).get(timeout=PATIENCE)
    assert noted("news") == "sent to all"
    cache.delete("order-news")
    with pytest.raises((ChordError, DeliveryFailed)):
        shop.newsletter([KIM, "unknown@example.com"]).get(timeout=PATIENCE)
    assert cache.get("order-news") is None

    assert shop.welcome(KIM)["code"] == 250

    first, second = shop.remind("3", KIM), shop.remind("3", KIM)
    assert first.id == second.id
    assert first.get(timeout=PATIENCE)["status"] == "accepted"

    became = shop.report.delay(KIM)
    assert became.get(timeout=PATIENCE)["id"] == became.id

    assert failure(shop.change_of_mind(KIM)).status == "cancelled"

    counted = {subject: sum(mail.subject == subject for mail in server.messages) for subject in SUBJECTS}
    assert counted == {**dict.fromkeys(SUBJECTS, 1), "Your invoice": 2, "News": 3}


SUBJECTS = ("Your invoice", "News", "Welcome", "Reminder", "Report")


@pytest.mark.usefixtures("transactional_db", "fresh_process")
def test_what_the_page_says_of_the_broker(shop: Any) -> None:
    shop.invoice_in_confidence("1", KIM)
    assert "write_invoice" in broker_contents()
    assert "Your invoice" not in broker_contents()
    assert Delivery.objects.get().status == "prepared"
    shop.invoice("2", KIM)
    assert "Your invoice" in broker_contents()


@pytest.mark.usefixtures("transactional_db", "fresh_process")
def test_the_example_of_eager_mode(server: SMTPServer, shop: Any) -> None:
    current_app.conf.task_always_eager = True
    try:
        shop.greet(KIM).get()
    finally:
        current_app.conf.task_always_eager = False
    assert cache.get("order-eager")["status"] == "accepted"
    assert [message.subject for message in server.messages] == ["Hello"]
