"""Password, private key and token are searched for in every visible place: they exist only where they are sealed."""

from __future__ import annotations

import base64
import logging
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import django
import pytest
import redis
from cryptography.fernet import Fernet
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core import mail
from django.db import connection
from django.test import Client
from django.utils import timezone
from django.utils.log import AdminEmailHandler

from config.local.processes import PATIENCE, Processes, free_port, wait_until
from email_integration.models import Delivery, OAuthToken, RefreshFamily, SMTPConfig
from email_integration.models.audit import Event, note
from email_integration.models.login import token_digest
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests import services
from tests.attacks.secrets import found_in as planted_in
from tests.attacks.secrets import new
from tests.private_keys import key, pem
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.extra

PASSWORD = "zY7~never-shown-q2X"
FORMS = (
    PASSWORD,
    base64.b64encode(PASSWORD.encode()).decode(),
    base64.b64encode(f"\0user\0{PASSWORD}".encode()).decode(),
)


def found_in(text: str) -> bool:
    return any(form in text for form in (*FORMS, *pem(key()).splitlines()[1:-1]))


@contextmanager
def everything_said_to_valkey() -> Iterator[list[str]]:
    """Record every command that any process sends to the broker and cache."""
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
    """Return every row of every table, as the database returns it."""
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
    """A running Flower, requested with its password."""

    def __init__(self, processes: Processes) -> None:
        """Start Flower and wait until it answers."""
        self.port = free_port()
        command = ["flower", "--address=127.0.0.1", f"--port={self.port}", "--basic-auth=user:pass"]
        processes.start("flower", [sys.executable, "-m", "celery", "-A", "config", *command])
        wait_until(lambda: self.answers(), what="an answer of Flower")

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
    """Return every admin page of this app: lists, add forms, and each object's form, history and delete page."""
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
    """Search database, dump, Valkey, logs, results, Flower and every admin page, after successful and failed mails."""
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
    # A second, inactive configuration, with the OAuth fields that such a row holds.
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
            running.restart_worker()  # so that it logs in again
            refused = send_email.delay("S", "B", to=["lee@example.com"])
            wait_until(lambda: Delivery.objects.get(pk=refused.id).attempts > 1, what="refused logins")
            config.host = "127.0.0.1"
            config.password = entered
            config.save()
            wait_until(lambda: refused.id in flower.get("/api/tasks"), what="the task in Flower")
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


#: How many secrets of each kind are planted.
CREDENTIALS = {"password": 45, "client_secret": 40, "refresh_token": 40, "private_key": 5, "access_token": 30}
CONTENTS = {"subject": 10, "body": 10, "header": 10, "attachment": 10}


def given_of(kind: str, secret: str) -> dict[str, str]:
    """Return the fields of a configuration that logs in with a secret of that kind."""
    if kind == "password":
        return {"password": secret}
    grants = {"refresh_token": "refresh_token", "private_key": "jwt_bearer"}
    field = kind if kind in ("client_secret", "refresh_token", "private_key") else "client_secret"
    return {
        "authentication": "oauth",
        "oauth_grant": grants.get(kind, "client_credentials"),
        "oauth_endpoint": "https://localhost:1/token",
        "oauth_client_id": "mailer",
        f"oauth_{field}": secret,
    }


def planted(server: SMTPServer) -> dict[str, list[str]]:
    """Plant secrets of all kinds in configurations and tokens. The first password belongs to the active one."""
    secrets: dict[str, list[str]] = {kind: [new(kind) for _ in range(number)] for kind, number in CREDENTIALS.items()}
    keys = [pem(key(f"planted {number}", 2048)) for number in range(CREDENTIALS["private_key"])]
    secrets["private_key"] = [line for one in keys for line in (one.splitlines()[4],)]
    for kind in CREDENTIALS:
        for number, secret in enumerate(keys if kind == "private_key" else secrets[kind]):
            config = SMTPConfig.objects.create(
                name=f"{kind} {number}",
                host="localhost",
                port=server.port,
                username="user",
                from_email="noreply@example.com",
                is_active=(kind, number) == ("password", 0),
                **given_of(kind, new("other") if kind == "access_token" else secret),
            )
            if kind == "access_token":
                OAuthToken.objects.create(config=config, settings=token_digest(config), access_token=secret)
                first = RefreshFamily.fingerprint_of(new("first"))
                RefreshFamily.objects.create(fingerprint=first, newest=secret[::-1], asked_at=timezone.now())
    return secrets


def test_two_hundred_secrets_are_nowhere(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], tmp_path: Path, settings: Any
) -> None:
    """Secrets of all kinds, in all places. Mail contents too, except on the pages for users who may see them."""
    first = new("password")
    server = smtp_server(user="user", password=first)
    secrets = planted(server)
    SMTPConfig.objects.activate(config := SMTPConfig.objects.get(name="password 0"))
    config.password = first
    config.save()
    secrets["password"][0] = first
    contents = {kind: [new(kind) for _ in range(number)] for kind, number in CONTENTS.items()}
    credentials = [secret for of_kind in secrets.values() for secret in of_kind]
    everything = [*credentials, *(secret for of_kind in contents.values() for secret in of_kind)]
    assert len(set(everything)) == 200
    user = get_user_model().objects.create_superuser("root", "root@example.com", "x")
    processes = Processes(tmp_path / "flower", env={"DJANGO_SETTINGS_MODULE": "config.settings"}, cwd=ROOT)
    try:
        with everything_said_to_valkey() as said:
            running = stack(env={"LOG_LEVEL": "DEBUG"})
            flower = Flower(processes)
            server.inject(Fault(verb="RCPT", reply="550 5.1.1 no such user", match="unknown@", times=None))
            for number in range(10):
                send_email.delay(
                    contents["subject"][number],
                    contents["body"][number],
                    to=["unknown@example.com" if number % 3 == 0 else "kim@example.com"],
                    headers={"X-Secret": contents["header"][number]},
                    attachments=[("a.txt", contents["attachment"][number], "text/plain")],
                )
            wait_until(lambda: not Delivery.objects.filter(finished_at=None).exists(), what="all mails finished")
            server.inject(Fault(verb="AUTH", reply=f"535 5.7.8 {first} is wrong", times=None))
            running.restart_worker()
            refused = send_email.delay(contents["subject"][0], contents["body"][0], to=["lee@example.com"])
            wait_until(lambda: Delivery.objects.get(pk=refused.id).attempts > 0, what="a refused login")
            wait_until(lambda: refused.id in flower.get("/api/tasks"), what="the task in Flower")
            pages = {
                path: flower.get(path)
                for path in ("/api/tasks", "/tasks", f"/task/{refused.id}", "/workers", "/metrics")
            }
        client = Client()
        client.force_login(user)
        pages |= dict(admin_pages(client))
        dump = running.run("dumpdata").stdout
        logs = running.logs() + "".join(log.read_text() for log in (tmp_path / "flower").glob("*.log"))
    finally:
        processes.end(seconds=5)
    where = {
        "the database": everything_stored(),
        "dumpdata": dump,
        "Valkey": "\n".join(said),
        "the logs": logs,
        "error mails": error_mails(user, secrets, settings),
        **pages,
    }
    assert len(said) > 100
    assert where["error mails"].count("Arisen") >= len(secrets)
    for name, text in where.items():
        shown_there = name.startswith("/admin/email_integration/delivery/")
        assert planted_in(text, *(credentials if shown_there else everything)) == [], name


def error_mails(user: Any, secrets: dict[str, list[str]], settings: Any) -> str:
    """Return the error mails about forms with secrets that could not be sealed."""
    settings.DEBUG = False
    settings.ADMINS = ["ada@example.com"] if django.VERSION >= (6, 0) else [("Ada", "ada@example.com")]
    handler = AdminEmailHandler(include_html=True)
    logging.getLogger("django.request").addHandler(handler)
    client = Client(raise_request_exception=False)
    client.force_login(user)
    mail.outbox.clear()
    try:
        with mock.patch.object(Fernet, "_encrypt_from_parts", side_effect=RuntimeError("Arisen")):
            for kind, of_kind in secrets.items():
                secret = pem(key("planted 0")) if kind == "private_key" else of_kind[0]
                form = {"name": f"New {kind}", "host": "smtp.example.com", "port": 587, "use_tls": "on", "timeout": 10}
                form |= {"username": "user", "from_email": "a@example.com", **given_of(kind, secret)}
                client.post("/admin/email_integration/smtpconfig/add/", form)
    finally:
        logging.getLogger("django.request").removeHandler(handler)
    return "\n".join(f"{one.subject}{one.body}{[each[0] for each in one.alternatives]}" for one in mail.outbox)


def database_files() -> list[str]:
    name = str(connection.settings_dict["NAME"])
    return [file for file in (name, f"{name}-wal") if os.path.exists(file)]
