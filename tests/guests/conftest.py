"""Create host projects, with other services than Valkey where needed, and add a table row for each.

A test first calls ``row("the project", "the result")``. The number of the item is that of its file,
``test_NN_name.py``. If the test fails, the table says BROKEN instead.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.local.valkey import Valkey
from tests import services
from tests.host_project import SETTINGS, HostProject
from tests.postgresql import PostgreSQL
from tests.rabbitmq import RabbitMQ
from tests.tables import GUESTS


@pytest.fixture
def row(request: pytest.FixtureRequest, record_property: Any) -> Callable[[str, str], None]:
    """``row(host, outcome)``: the description of the project, and the result if the test passes."""
    found = re.match(r"test_(\d+)_", request.path.name)
    assert found, f"{request.path.name} has no number of an item"

    def record(host: str, outcome: str) -> None:
        record_property(GUESTS, [int(found[1]), host, outcome])

    return record


@pytest.fixture
def host(tmp_path: Path, valkey: Valkey) -> Iterator[Callable[..., HostProject]]:
    """``host(settings, env={…})``: a project with the README's settings and then these; not migrated."""
    made: list[HostProject] = []

    def host_project(settings: str = "", *, env: dict[str, str] | None = None) -> HostProject:
        parent = tmp_path / f"host{len(made) + 1}"
        parent.mkdir()
        made.append(HostProject(parent, SETTINGS + settings, env={"BROKER": valkey.url, **(env or {})}))
        return made[-1]

    yield host_project
    for project in made:
        project.end()


@pytest.fixture(scope="session")
def _server() -> Iterator[PostgreSQL]:
    server = PostgreSQL(services.temporary_folder())
    with running("PostgreSQL", server.start, server.stop):
        yield server


@pytest.fixture
def postgresql(_server: PostgreSQL) -> str:
    """Return the URL of an empty PostgreSQL database, for the variable DATABASE of a host project."""
    return _server.make_database(f"guest_{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A separate RabbitMQ server for the host projects."""
    server = RabbitMQ(services.temporary_folder())
    with running("RabbitMQ", server.start, server.end):
        yield server


@contextlib.contextmanager
def running(name: str, start: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """Run a service. If it cannot be started, skip the test, or fail if CI is set."""
    try:
        start()
    except Exception as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name}: {type(error).__name__}: {error}")
    try:
        yield
    finally:
        stop()
