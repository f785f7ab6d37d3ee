"""Passwords in AWS Secrets Manager, by boto3 and a local server with the same API."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import translation

from config.local.processes import PATIENCE, free_port, wait_until
from email_integration import references
from email_integration.exceptions import SecretUnavailable
from email_integration.models import CircuitBreaker, Delivery
from email_integration.sending.sessions import pool
from email_integration.smtpd import SMTPServer
from tests.deliveries import RecordingTaskQueue, attempt, submitted
from tests.relays import config_for

pytestmark = pytest.mark.extra

OLD, NEW = "0ld-s3cret", "n3w-s3cret"
NAME = "mail/smtp"


class SecretsManager:
    """A local AWS Secrets Manager."""

    def __init__(self, address: str) -> None:
        self.address = address

    @property
    def client(self) -> Any:
        from boto3.session import Session

        return Session().client("secretsmanager")

    def post(self, path: str, body: str = "") -> None:
        request = urllib.request.Request(self.address + path, body.encode(), {"Content-Type": "text/plain"})
        with urllib.request.urlopen(request, timeout=PATIENCE):
            pass

    def answers(self) -> bool:
        try:
            self.post("/moto-api/reset")
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecretsManager]:
    port = free_port()
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    manager = SecretsManager(f"http://127.0.0.1:{port}")
    try:
        wait_until(manager.answers, what="an answer of moto")
        yield manager
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def aws(served: SecretsManager, monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> SecretsManager:
    """An empty Secrets Manager. As in production, boto3 finds it by its environment variables."""
    for name, value in {
        "AWS_ENDPOINT_URL": served.address,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    keys = {"SECRET_REFERENCES": ["aws-secretsmanager:*"], "SECRET_TTL": 3600.0, "SECRET_TIMEOUT": 60.0}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **keys}
    served.post("/moto-api/reset")
    return served


def refusal(text: str) -> str:
    with pytest.raises(SecretUnavailable) as refused, translation.override(None):
        references.resolve(text, anew=True)
    return str(refused.value)


def test_a_secret_whole_or_the_text_under_a_key(aws: SecretsManager) -> None:
    """By its name, or by its ARN, which contains colons."""
    arn = aws.client.create_secret(Name=NAME, SecretString=json.dumps({"user": "u", "password": OLD}))["ARN"]
    aws.client.create_secret(Name="plain", SecretString=OLD)
    assert references.resolve(f"aws-secretsmanager:{NAME}#password") == OLD
    assert references.resolve(f"aws-secretsmanager:{arn}#password") == OLD
    assert references.resolve("aws-secretsmanager:plain") == OLD


def test_an_unusable_secret_is_reported_without_its_value(aws: SecretsManager) -> None:
    aws.client.create_secret(Name=NAME, SecretString=json.dumps({"password": OLD, "port": 587}))
    aws.client.create_secret(Name="plain", SecretString=OLD)
    aws.client.create_secret(Name="octets", SecretBinary=b"\x00")
    assert refusal("aws-secretsmanager:none") == "AWS Secrets Manager has no secret none in this region."
    assert refusal("aws-secretsmanager:octets") == "The secret octets is not a text."
    for text in (f"{NAME}#none", f"{NAME}#port", f"{NAME}#", "plain#password"):
        name, _, key = text.partition("#")
        said = refusal(f"aws-secretsmanager:{text}")
        assert said == f"The secret {name} is not JSON with a text under the key {key}."


def test_a_denied_access_is_reported(aws: SecretsManager) -> None:
    aws.client.create_secret(Name=NAME, SecretString=OLD)
    aws.post("/moto-api/reset-auth", "0")
    try:
        assert f"did not return the secret {NAME} (" in refusal(f"aws-secretsmanager:{NAME}")
    finally:
        aws.post("/moto-api/reset-auth", "inf")


def test_no_region_is_named(aws: SecretsManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "(NoRegionError)" in refusal(f"aws-secretsmanager:{NAME}")


def test_an_endpoint_that_hangs_is_given_up(
    aws: SecretsManager, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_TIMEOUT": 0.2}
        # A name of its own, as concurrent requests for the same name share one answer.
        said = refusal("aws-secretsmanager:hangs")
    assert said == "The provider of “aws-secretsmanager:” did not answer within 0.2 seconds."


def test_without_boto3_it_says_what_to_install(aws: SecretsManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    assert "pip install 'celery-mail-dispatch[aws]'" in refusal(f"aws-secretsmanager:{NAME}")


@pytest.mark.django_db(transaction=True)
def test_a_rotated_secret_is_picked_up_without_a_restart(
    aws: SecretsManager, smtp_server: Callable[..., SMTPServer], task_queue: RecordingTaskQueue
) -> None:
    """There is one failed login. All mail arrives, each once."""
    aws.client.create_secret(Name=NAME, SecretString=json.dumps({"password": OLD}))
    server = smtp_server(password=OLD)
    config_for(server, password=f"aws-secretsmanager:{NAME}#password")
    attempt(submitted().pk)
    server.password = NEW
    aws.client.put_secret_value(SecretId=NAME, SecretString=json.dumps({"password": NEW}))
    pool.close()
    for _ in range(4):
        attempt(submitted().pk)
    assert len({message.message_id for message in server.messages}) == len(server.messages) == 5
    assert Delivery.objects.filter(status="accepted").count() == 5
    assert server.failed_auths == 1
    assert not CircuitBreaker.objects.exists()
