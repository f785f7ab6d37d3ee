"""The test whether a pooler loses prepared statements, on a database without a pooler. The tests of the guests cover
databases with one.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connection

from config.local.processes import wait_until
from email_integration.diagnosis import database
from email_integration.ledger import pooler
from email_integration.tasks import hooks
from tests import services

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_database_itself_loses_none() -> None:
    assert not pooler.loses_statements("default")
    assert database.diagnose_pooler("default") == []


def test_the_query_leaves_no_connection_and_no_statement_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    if services.database != "postgresql":  # no such statements on other databases, so there is no query
        monkeypatch.setattr(pooler, "_opened", pytest.fail)
        assert not pooler.loses_statements("default")
        return
    clients = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"

    def connected(cursor: Any) -> set[tuple[int]]:
        cursor.execute(clients)
        return set(cursor.fetchall())

    with connection.cursor() as cursor:
        before = connected(cursor)
        pooler.loses_statements("default")
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'email_integration%%'", [])
        assert cursor.fetchone() == (0,)
        # The server notices the end of a connection with a delay. Connections that remain now must end soon.
        wait_until(lambda: connected(cursor) <= before, what="the test's own connections closed")


def test_a_worker_starts_where_it_cannot_be_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(alias: str) -> Any:
        raise OperationalError

    monkeypatch.setattr(pooler, "loses_statements", away)
    hooks._look_for_a_pooler()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    monkeypatch.setattr(pooler, "loses_statements", lambda alias: True)
    hooks._look_for_a_pooler()
    assert "prepare_threshold" in caplog.text
