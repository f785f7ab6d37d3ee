"""A server of the module's kind, and certificates of each kind."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from config.local.certificates import Certificates
from email_integration.routing import generation
from tests.deliveries import RecordingTaskQueue
from tests.integration.conftest import task_queue  # noqa: F401  # a fixture
from tests.stack import FAILED
from tests.tables import SERVERS

from .cases import cases_of
from .server import Kind, Server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise the tests with the cases of the module's SERVER."""
    kind: type[Server] = metafunc.module.SERVER
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases_of(kind), ids=lambda case: case.name)
    if "in_bulk" in metafunc.fixturenames:
        given = [True] if "extensions" in kind.unknown else [True, False]
        metafunc.parametrize("extensions", given, ids=lambda one: "all extensions" if one else "no extensions")
        metafunc.parametrize("in_bulk", [False, True], ids=["one by one", "in bulk"])


@pytest.fixture(scope="session")
def kinds_of_certificates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Kind, Certificates]:
    """Return certificates of one authority: a valid one, one of another host, and an expired one."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    ended = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    issued: dict[Kind, trustme.LeafCert] = {
        "good": authority.issue_cert("localhost", "127.0.0.1"),
        "wrong name": authority.issue_cert("mail.example.org"),
        "expired": authority.issue_cert(
            "localhost", "127.0.0.1", not_before=ended - dt.timedelta(days=9), not_after=ended
        ),
    }
    return {kind: _written(folder, kind, leaf) for kind, leaf in issued.items()}


def _written(folder: Path, kind: Kind, leaf: trustme.LeafCert) -> Certificates:
    certificate, key = folder / f"{kind}.pem", folder / f"{kind}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.touch(mode=0o600)
    leaf.private_key_pem.write_to_path(str(key))
    return Certificates(authority=folder / "authority.pem", certificate=certificate, key=key)


@pytest.fixture(scope="module")
def the_server(request: pytest.FixtureRequest, kinds_of_certificates: Mapping[Kind, Certificates]) -> Iterator[Server]:
    with request.module.SERVER(kinds_of_certificates) as server:
        yield server


@pytest.fixture
def server(request: pytest.FixtureRequest, record_property: Any) -> Iterator[Server]:
    """Yield a server of the module's SERVER. If it cannot run, record 'not run', or fail if CI is set."""
    kind: type[Server] = request.module.SERVER
    reason = kind.missing()
    if reason:
        record_property(SERVERS, [kind.name, 0, f"not run: {reason}"])
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{kind.name}: {reason}")
    for what, why in kind.not_run.items():
        record_property(SERVERS, [kind.name, 90, f"{what}: not run: {why}"])
    server: Server = request.getfixturevalue("the_server")
    yield server
    if request.node.stash.get(FAILED, False):
        print(server.log[-6000:])


@pytest.fixture(autouse=True)
def _fresh(fresh_process: None, task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    # One process writes and reads here, so it need not wait for its own changes.
    monkeypatch.setattr(generation, "TRUSTED", 0.0)
    monkeypatch.setattr(generation, "PROMPT", float("inf"))  # nor check again on a busy machine
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "RETRY_FIRST": 5.0,
        "BREAKER_PROBE_FIRST": 5.0,
        "CONTENT_RETENTION_DAYS": 1,
    }
