"""Flower, started as ``make run`` starts it: every page needs the password, and no page shows a mail's content."""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.mail import EmailMessage
from flower.urls import handlers
from honcho.environ import parse_procfile
from playwright.sync_api import Browser

from config.local.processes import LOOPBACK, PATIENCE, Processes, free_port, wait_until
from email_integration import submit_many
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import names, send_email
from tests.acceptance.conftest import Activate
from tests.headless_browser import browsing
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.extra

LOGIN = "kim:let-me-in"

#: Routes without information: the health check, Flower's own scripts and images, and the 'logged out' page.
OPEN = {"/healthcheck", "/static/(.*)", "/logout"}

CONTENT = ("secret-subject", "secret-body", "example.com")


class Flower:
    """A process started by the Procfile's line."""

    def __init__(self, processes: Processes) -> None:
        """Start Flower, and wait until it answers."""
        self.port = free_port()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {"FLOWER_PORT": str(self.port), "FLOWER_BASIC_AUTH": LOGIN, "PATH": path}
        command = parse_procfile((ROOT / "Procfile").read_text()).processes["flower"]
        processes.start("flower", ["sh", "-c", command], env=environment)
        wait_until(lambda: self._answers(), what="an answer of Flower")

    def get(self, path: str, login: str | None = LOGIN, method: str = "GET") -> tuple[int, str]:
        """Return the status and the page."""
        request = urllib.request.Request(f"http://{LOOPBACK}:{self.port}{path}", method=method)
        if login is not None:
            request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the task page, by task id."""
        wanted = {"draw": 1, "start": 0, "length": 100, "order[0][column]": 0, "order[0][dir]": "asc"}
        status, page = self.get(f"/tasks/datatable?{urlencode({**wanted, 'columns[0][data]': 'uuid'})}")
        assert status == 200
        return {task["uuid"]: task for task in json.loads(page)["data"]}

    def _answers(self) -> bool:
        try:
            return self.get("/healthcheck", login=None) == (200, "OK")
        except OSError:
            return False


@pytest.fixture(scope="module")
def flower(workers: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """One Flower for all tests of the module."""
    settings = {"DJANGO_SETTINGS_MODULE": "config.settings"}
    with Processes(tmp_path_factory.mktemp("flower"), env=settings, cwd=ROOT) as processes:
        yield Flower(processes)


def routes() -> list[str]:
    """Return every pattern of Flower's own routes, except the one for missing pages."""
    patterns = [one[0] if isinstance(one, tuple) else one.regex.pattern.removesuffix("$") for one in handlers]
    return [pattern for pattern in patterns if pattern != ".*"]


def test_nothing_is_shown_without_the_password(flower: Flower) -> None:
    """No route of Flower (page, API or metrics) answers a request without the password or with a wrong one."""
    guarded = set(routes()) - OPEN
    assert {"/", "/tasks", "/metrics", "/api/tasks", "/api/workers", "/api/task/revoke/(.+)"} <= guarded
    for login in (None, "kim:guessed", ":", "kim"):
        for pattern in guarded:
            path = pattern.replace("(.+)", "x").replace("(.*)", "x").removesuffix("/?")
            for method in ("GET", "POST"):
                assert flower.get(path, login, method)[0] in {401, 403, 404, 405}, (method, path, login)
        assert (
            flower.get("/metrics", login)[0] == flower.get("/", login)[0] == flower.get("/api/tasks", login)[0] == 401
        )
    assert flower.get("/metrics")[0] == flower.get("/")[0] == 200


def test_tasks_show_how_the_mail_went_and_nothing_of_it(
    flower: Flower, app: Stack, smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """Tasks show id, state, priority, duration and outcome, but no subject, body or address."""
    server = smtp_server(security="plain", user=None)
    activate(server)
    server.inject(Fault(verb="RCPT", reply="550 5.1.1 <unknown@example.com> secret-body", match="unknown@", times=None))
    # These workers send events once Flower has asked for them; sweeps are tasks too.
    wait_until(flower.tasks, what="a task in Flower")
    mail = ("secret-subject", "secret-body", None)
    good = send_email.delay(*mail, ["kim@example.com"], priority="high")
    bad = send_email.delay(*mail, ["unknown@example.com"], priority="bulk")
    wait_until(
        lambda: Delivery.objects.filter(status__in=["accepted", "failed"]).count() == 2, what="both mails finished"
    )

    def seen() -> dict[str, dict[str, Any]] | None:
        tasks = flower.tasks()
        ended = {"SUCCESS", "FAILURE"}
        return tasks if all(one.id in tasks and tasks[one.id]["state"] in ended for one in (good, bad)) else None

    tasks = wait_until(seen, what="both results in Flower")

    assert tasks is not None
    accepted, failed = tasks[good.id], tasks[bad.id]
    assert (accepted["state"], accepted["kwargs"]) == ("SUCCESS", "{'priority': 'high'}")
    assert "accepted" in accepted["result"]
    assert accepted["runtime"] > 0
    assert (failed["state"], failed["kwargs"]) == ("FAILURE", "{'priority': 'bulk'}")
    assert "DeliveryFailed(550" in failed["exception"]
    for path in ("/tasks", "/api/tasks", f"/task/{good.id}", f"/task/{bad.id}", "/workers", "/metrics"):
        status, page = flower.get(path)
        assert status == 200
        assert not [word for word in CONTENT if word in page], path
    assert not [word for word in CONTENT if word in json.dumps(list(tasks.values()))]


def test_its_pages_list_a_task_for_each_mail_in_a_browser(
    flower: Flower, app: Stack, smtp_server: Callable[..., SMTPServer], activate: Activate, chromium: Browser
) -> None:
    """Flower lists tasks by delivery id, for single mails and for a bulk: accepted, refused and deferred."""
    server = smtp_server(security="plain", user=None)
    activate(server)
    server.inject(
        Fault(verb="RCPT", reply="550 5.1.1 unknown", match="unknown@", times=None),
        Fault(verb="RCPT", reply="450 4.2.0 busy", match="busy@", times=None),
    )
    wait_until(flower.tasks, what="a task in Flower")
    states = {
        str(send_email.delay("secret-subject", "secret-body", to=[to]).id): state
        for to, state in (
            ("kim@example.com", "SUCCESS"),
            ("unknown@example.com", "FAILURE"),
            ("busy@example.com", "RETRY"),
        )
    }
    bulk = (EmailMessage("secret-subject", "secret-body", to=[f"kim{number}@example.com"]) for number in range(30))
    states |= dict.fromkeys(submit_many(bulk), "SUCCESS")

    with browsing(chromium, f"http://{LOOPBACK}:{flower.port}") as page:
        page.set_extra_http_headers({"Authorization": "Basic " + base64.b64encode(LOGIN.encode()).decode()})

        def listed() -> dict[str, list[str]]:
            """Return the cells of each row of these mails on the page, by id."""
            page.goto("/tasks")
            page.locator("#tasks-table_wrapper select").first.select_option("100")
            page.locator("#tasks-table_wrapper input[type=search]").fill(names.SEND_EMAIL)
            page.wait_for_load_state("networkidle")
            rows = page.locator("#tasks-table tbody tr")
            found = [[cell.strip() for cell in row] for row in rows.evaluate_all(CELLS)]
            return {one: row for row in found for one in states if one in row}

        def are_all_listed() -> dict[str, list[str]] | None:
            rows = listed()
            return rows if all(state in rows.get(one, ()) for one, state in states.items()) else None

        rows = wait_until(are_all_listed, what="a row for each mail")
        assert rows is not None
        for row in rows.values():
            assert names.SEND_EMAIL in row
            assert any(cell.startswith("worker") and "@" in cell for cell in row), row
        for one, state in list(states.items())[:4]:
            page.goto(f"/task/{one}")
            text = page.locator("body").inner_text()
            assert one in text
            assert state in text
            assert not [word for word in CONTENT if word in page.content()]


#: A script that returns the cell texts of the rows of a table.
CELLS = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"


def test_flower_does_not_start_without_a_password(tmp_path: Path) -> None:
    """It prints the missing variable and exits."""
    command = parse_procfile((ROOT / "Procfile").read_text()).processes["flower"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for login in ("", "kim:"):
        with Processes(
            tmp_path, env={"DJANGO_SETTINGS_MODULE": "config.settings", "PATH": path}, cwd=ROOT
        ) as processes:
            environment = {"FLOWER_PORT": str(free_port()), "FLOWER_BASIC_AUTH": login}
            flower = processes.start(f"flower-{login}", ["sh", "-c", command], env=environment)
            assert flower.wait(seconds=PATIENCE) != 0
            assert flower.read_log().startswith("FLOWER_BASIC_AUTH: must be user:password")
