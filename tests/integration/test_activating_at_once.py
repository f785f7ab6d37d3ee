"""Many processes activate random configurations: there are never two active ones, and no errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from email_integration.models import SMTPConfig

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """A list for the processes that a test starts. All of them are ended after the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("many", "seconds"), [(6, 2), pytest.param(16, 10, marks=pytest.mark.extra)])
def test_never_two_are_active(many: int, seconds: int, processes: list[subprocess.Popen[str]]) -> None:
    """Many processes use every documented way to activate. Only the database synchronizes them."""
    for number in range(5):
        SMTPConfig.objects.create(name=f"Server {number}", host="h", from_email="a@example.com", is_active=number == 0)
    connection.close()
    processes.extend(
        subprocess.Popen(
            [sys.executable, "-m", "tests.activating", str(seconds)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(many)
    )
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers: list[dict[str, Any]] = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, _ = process.communicate(timeout=seconds + 120)
        answers.append(json.loads(output))

    done = sum(answer["done"] for answer in answers)
    print(f"{connection.vendor}: {many} processes switched {done} times in {seconds} s")
    assert [answer["errors"] for answer in answers] == [{}] * many
    assert sum(answer["too_many"] for answer in answers) == 0
    assert done >= many
    assert SMTPConfig.objects.filter(is_active=True).count() <= 1
