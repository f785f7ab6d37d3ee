"""The dashboard in a web process that has just started, beside real workers."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from config.local.processes import PATIENCE
from tests.stack import ROOT, Stack

#: Views of a process that has asked no worker before. It prints what each page says about the workers.
VIEWS = """
    import re, django
    django.setup()
    from django.contrib.auth import get_user_model
    from django.test import Client
    from email_integration.dashboard import live_status
    # A busy machine may take longer than pages wait. Only the first question has this time at once.
    live_status.FIRST_PATIENCE, live_status.FIRST_FOR_WORKERS, live_status.FOR_WORKERS = 100.0, 3.0, 3.0
    client = Client(SERVER_NAME="localhost")
    client.force_login(get_user_model().objects.get(username="kim"))
    for _ in range(2):
        page = client.get("/admin/email_integration/delivery/dashboard/").content.decode()
        said = page.split('class="email-workers"')[1].split("</p>")[0]
        print("said:", " ".join(re.sub("<[^>]*>", " ", said.partition(">")[2]).split()))
        live_status.PATIENCE = 100.0
"""


def said_about_workers(env: dict[str, str]) -> list[str]:
    """Return what the first two views of a fresh process say."""
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(VIEWS)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return [line.removeprefix("said: ") for line in ran.stdout.splitlines() if line.startswith("said: ")]


def test_the_first_view_of_a_fresh_process_names_the_workers(
    stack: Callable[..., Stack], django_user_model: Any
) -> None:
    """The process first loads the broker's library, which takes longer than a worker needs to answer."""
    django_user_model.objects.create_superuser(username="kim", email="kim@example.com")
    running = stack()
    name = running.worker.name
    for _ in range(2):
        first, second = said_about_workers(running.env)
        assert first.startswith(f"1 worker answers: {name}@"), first
        assert second == first


def test_a_broker_that_is_away_is_said_at_the_first_view(stack: Callable[..., Stack], django_user_model: Any) -> None:
    django_user_model.objects.create_superuser(username="kim", email="kim@example.com")
    running = stack()
    for said in said_about_workers({**running.env, "BROKER_URL": "redis://127.0.0.1:1/0"}):
        assert said.startswith("The broker cannot be reached, so workers cannot be asked."), said
        assert "A worker last looked for waiting mail at " in said
