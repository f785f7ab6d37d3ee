"""Password, private key and token are looked for wherever anybody could look: they are only where they are sealed."""

from __future__ import annotations

import base64
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from config.local.processes import PATIENCE, Processes, free_port, wait_until
from config.local.smtp_server import Fault, SMTPServer
from email_integration.models import Delivery, OAuthToken, SMTPConfig
from email_integration.models.audit import Event, note
from email_integration.models.login import token_digest
from email_integration.tasks import send_email
from tests import services
from tests.private_keys import key, pem
from tests.stack import ROOT, Stack

PASSWORD = "zY7-never-shown-q2X"
FORMS = (
    PASSWORD,
    base64.b64encode(PASSWORD.encode()).decode(),
    base64.b64encode(f"\0user\0{PASSWORD}".encode()).decode(),
)


def found_in(text: str) -> bool:
    return any(form in text for form in (*FORMS, *pem(key()).splitlines()[1:-1]))


@contextmanager
def everything_said_to_valkey() -> Iterator[list[str]]:
    """Every command that any process sends to the broker and cache."""
    said: list[str] = []
    client = redis.Redis.from_url(services.valkey.url, socket_timeout=60)
    ended = threading.Event()

    def listen() -> None:
        with client.monitor() as monitor:
            for command in monitor.listen():
                said.append(str(command["command"]))
                if ended.is_set():
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    yield said
    ended.set()
    redis.Redis.from_url(services.valkey.url).ping()
    thread.join(PATIENCE)
    client.close()


def everything_stored() -> str:
    """Every row of every table, as the database gives it."""
    rows = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            rows += [
                f"{table}: {bytes(v).decode('utf-8', 'replace') if isinstance(v, bytes | memoryview) else v!r}"
                for row in cursor
                for v in row
            ]
    return "\n".join(rows)


class Flower:
    """A running Flower, asked with its password."""

    def __init__(self, processes: Processes) -> None:
        """Start it and wait until it answers."""
        self.port = free_port()
        command = ["flower", "--address=127.0.0.1", f"--port={self.port}", "--basic-auth=user:pass"]
        processes.start("flower", [sys.executable, "-m", "celery", "-A", "config", *command])
        wait_until(lambda: self.answers(), what="Flower to answer")

    def get(self, path: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        request.add_header("Authorization", "Basic " + base64.b64encode(b"user:pass").decode())
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.read().decode()

    def answers(self) -> bool:
        try:
            return bool(self.get("/healthcheck"))
        except OSError:
            return False


def admin_pages(client: Client) -> Iterator[tuple[str, str]]:
    """Every page the admin has for this app: lists, add forms, every object's form, history and delete page."""
    for model in apps.get_app_config("email_integration").get_models():
        base = f"/admin/email_integration/{model._meta.model_name}/"
        if client.get(base).status_code == 404:
            continue
        paths = [base, f"{base}add/"]
        for pk in model._default_manager.values_list("pk", flat=True)[:5]:
            paths += [f"{base}{pk}/{page}" for page in ("change/", "history/", "delete/")]
        for path in paths:
            yield path, client.get(path).content.decode()
    for entry in SMTPConfig.history.all():
        path = f"/admin/email_integration/smtpconfig/{entry.id}/history/{entry.history_id}/"
        yield path, client.get(path).content.decode()


@pytest.mark.parametrize("kept", ["here", "elsewhere"])
def test_the_password_is_nowhere(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], tmp_path: Path, settings: Any, kept: str
) -> None:
    """Database, dump, Valkey, logs, results, Flower and every admin page, after mails that went well and badly."""
    server = smtp_server(user="user", password=PASSWORD)
    (tmp_path / "smtp").write_text(PASSWORD)
    entered = PASSWORD if kept == "here" else f"file:{tmp_path}/smtp"
    allowed = f"file:{tmp_path}/*"
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_REFERENCES": [allowed]}
    config = SMTPConfig.objects.create(
        name="Primary",
        host="localhost",
        port=server.port,
        username="user",
        password=entered,
        from_email="noreply@example.com",
        is_active=True,
    )
    # Another, which is not active, with what such a one holds of OAuth.
    signing = SMTPConfig.objects.create(
        name="Signing",
        host="localhost",
        port=server.port,
        username="user",
        authentication="oauth",
        oauth_endpoint="https://localhost/token",
        oauth_client_id="mailer",
        oauth_private_key=pem(key()),
        from_email="noreply@example.com",
    )
    OAuthToken.objects.create(config=signing, settings=token_digest(signing), access_token=PASSWORD)
    note(config, Event.VIEWED)
    user = get_user_model().objects.create_superuser("root", "root@example.com", "x")
    processes = Processes(tmp_path / "flower", env={"DJANGO_SETTINGS_MODULE": "config.settings"}, cwd=ROOT)
    try:
        with everything_said_to_valkey() as said:
            running = stack(env={"LOG_LEVEL": "DEBUG", "SECRET_REFERENCES": allowed})
            flower = Flower(processes)
            send_email.delay("S", "B", to=["kim@example.com"]).get(timeout=PATIENCE)
            server.inject(Fault(verb="AUTH", reply=f"535 5.7.8 {PASSWORD} is wrong", times=None))
            running.restart_worker()  # so that it logs in anew
            refused = send_email.delay("S", "B", to=["lee@example.com"])
            wait_until(lambda: Delivery.objects.get(pk=refused.id).attempts > 1, what="refused logins")
            config.host = "127.0.0.1"
            config.password = entered
            config.save()
            wait_until(lambda: refused.id in flower.get("/api/tasks"), what="Flower to know the task")
            pages = {
                path: flower.get(path)
                for path in (
                    "/api/tasks",
                    "/api/workers?refresh=1",
                    "/tasks",
                    f"/task/{refused.id}",
                    "/workers",
                    "/metrics",
                )
            }
        client = Client()
        client.force_login(user)
        pages |= dict(admin_pages(client))
        dump = running.run("dumpdata").stdout
        logs = running.logs() + "".join(log.read_text() for log in (tmp_path / "flower").glob("*.log"))
    finally:
        processes.end(seconds=5)
    assert len(said) > 100
    assert len(pages) > 12
    assert "Primary" in dump
    assert "Signing" in dump
    assert "DEBUG" in logs
    where = {
        "the database": everything_stored(),
        "dumpdata": dump,
        "Valkey": "\n".join(said),
        "the logs": logs,
        **pages,
    }
    assert [name for name, text in where.items() if found_in(text)] == []
    if connection.vendor == "sqlite":
        assert not any(found_in(Path(file).read_bytes().decode("latin-1")) for file in database_files())
    assert SMTPConfig.objects.get(name="Primary").password == entered


def database_files() -> list[str]:
    name = str(connection.settings_dict["NAME"])
    return [file for file in (name, f"{name}-wal") if os.path.exists(file)]
