"""A secret is sent to no proxy and no other address, and the keys that open sealed values cannot be referenced."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ValidationError

from config.local.certificates import Certificates
from email_integration import references, web
from email_integration.exceptions import SecretUnavailable
from email_integration.models.oauth import Grant
from email_integration.routing.token_endpoint import Account, fetch
from email_integration.smtp import NoToken
from tests.integration.admin_site import config
from tests.token_endpoint import CLIENT, SECRET, TokenEndpoint
from tests.web_hook import Hook

from .secrets import found_in, new

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Proxy:
    """A proxy that accepts and records everything, and replies that it is connected."""

    def __init__(self) -> None:
        self.heard = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                try:
                    while came := client.recv(65536):
                        self.heard += came
                        if self.heard.startswith(b"CONNECT") and self.heard.endswith(b"\r\n\r\n"):
                            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                        elif not self.heard.startswith(b"CONNECT"):
                            body = b'{"access_token": "of-the-proxy", "token_type": "Bearer"}'
                            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                            client.sendall(head.encode() + body)
                        else:
                            return
                except OSError:
                    pass

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that all environment variables name, as some networks require."""
    proxy = Proxy()
    for name in (*VARIABLES, "no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    for name in VARIABLES:
        monkeypatch.setenv(name, proxy.url)
    yield proxy
    proxy.close()


def account(endpoint: str, secret: str = SECRET) -> Account:
    return Account(
        endpoint=endpoint, grant=Grant.CLIENT_CREDENTIALS, client_id=CLIENT, client_secret=secret, scope="",
        refresh_token="", private_key="", mailbox="user",
    )  # fmt: skip


# -- proxies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "127.1.2.3"])
def test_a_secret_for_this_machine_goes_to_no_proxy(host: str, proxy: Proxy) -> None:
    with TokenEndpoint() as endpoint:
        assert fetch(account(endpoint.url.replace("localhost", host).replace("127.1.2.3", "127.0.0.1"))).access_token
        assert endpoint.requests
    assert proxy.heard == b""
    with pytest.raises(NoToken):  # nothing listens at the endpoint, and the proxy is not asked either
        fetch(account(f"http://{host}:1/token"))
    assert proxy.heard == b""


def test_nor_by_ipv6(proxy: Proxy) -> None:
    with pytest.raises(NoToken):
        fetch(account("http://[::1]:1/token"))
    assert proxy.heard == b""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_nor_by_tls(host: str, proxy: Proxy, certificates: Certificates) -> None:
    with TokenEndpoint(certificates) as endpoint:
        assert fetch(account(endpoint.url.replace("localhost", host))).access_token
    assert proxy.heard == b""


def test_an_alert_for_this_machine_goes_to_no_proxy(proxy: Proxy) -> None:
    hook = Hook()
    try:
        answer = web.post(hook.url, b'{"kind": "a", "state": "b"}', content_type="application/json", seconds=10)
        assert (answer.status, len(hook.received)) == (200, 1)
    finally:
        hook.close()
    assert proxy.heard == b""


def test_a_proxy_on_the_way_to_another_machine_hears_no_secret(proxy: Proxy) -> None:
    """The proxy is asked for a tunnel, and all data in the tunnel is encrypted for the endpoint."""
    secret = new("client-secret")
    with pytest.raises(NoToken):
        fetch(account("https://login.example.com/token", secret))
    assert proxy.heard.startswith(b"CONNECT login.example.com:443 ")
    assert not found_in(proxy.heard.decode("latin-1"), secret, CLIENT)


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com/token",
        "http://127.0.0.1.example.com/token",
        "http://localhost.example.com/token",
        "http://127.0.0.1@login.example.com/token",
        "http://localhost:80@login.example.com/token",
        "http://login.example.com#@127.0.0.1/token",
        "http://login.example.com\\@127.0.0.1/token",
        "http://login.example.com@127.0.0.1/token",
        "http://127.0.0.1\t.example.com/token",
        "http://127.0.0.1\n/token",
        " http://127.0.0.1/token",
        "http://0.0.0.0/token",
        "http://192.0.2.1/token",
        "ftp://127.0.0.1/token",
        "file:///etc/passwd",
        "//127.0.0.1/token",
        "http:///token",
        "",
    ],
)
def test_nothing_is_sent_in_the_clear_to_another_machine(url: str, proxy: Proxy) -> None:
    with pytest.raises(NoToken):
        fetch(account(url))
    assert proxy.heard == b""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_secret_that_is_kept_on_this_machine_comes_by_no_proxy(
    host: str, proxy: Proxy, allow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local stand-in for AWS, for example: its answer contains the secret."""
    pytest.importorskip("boto3")
    secret = new("password")
    with TokenEndpoint() as keeper:
        keeper.instead = lambda: (
            200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps({"SecretString": secret}).encode()
        )  # fmt: skip
        place = keeper.url.removesuffix("/token").replace("localhost", host)
        for name, value in {
            "AWS_ENDPOINT_URL": place,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "s3cret",
            "AWS_DEFAULT_REGION": "eu-central-1",
        }.items():
            monkeypatch.setenv(name, value)
        allow("aws-secretsmanager:mail/*")
        assert references.resolve("aws-secretsmanager:mail/smtp") == secret
    assert proxy.heard == b""


# -- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 305, 307, 308])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_redirect_takes_no_secret_along(status: int, scheme: str, proxy: Proxy, certificates: Certificates) -> None:
    with TokenEndpoint() as other, TokenEndpoint(certificates if scheme == "https" else None) as endpoint:
        endpoint.instead = lambda: (status, {"Location": other.url}, b"{}")
        with pytest.raises(NoToken, match="answered with a redirect, which is not followed"):
            fetch(account(endpoint.url))
        assert other.requests == []
        hook = Hook()
        try:
            hook.status, hook.location = status, other.url
            answer = web.post(hook.url, b'{"kind": "a", "state": "b"}', content_type="application/json", seconds=10)
            assert answer.status == status
        finally:
            hook.close()
        assert other.requests == []
    assert proxy.heard == b""


# -- references -------------------------------------------------------------------------------------------------------

#: Names of passwords and keys in a project's environment.
KEYS = [
    "SMTP_PASSWORD_KEYS",
    "SMTP_PASSWORD_KEYS_OLD",
    "SMTP_PASSWORD_KEYS_FILE",
    "SMTP_PASSWORD_KEY",
    "SMTP_PASSWORD_KEY_1",
    "SMTP_PASSWORDKEYS",
    "smtp_password_keys",
    "OLD_SMTP_PASSWORD_KEYS_2024",
    "SECRET_KEY",
    "SECRET_KEY_FILE",
    "SECRET_KEY_FALLBACKS",
    "SECRET_KEYS",
    "DJANGO_SECRET_KEY",
    "DJANGO_SECRET_KEY_OLD",
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "SMTP_DATABASE_URL",
    "REPLICA_DATABASE_URL",
    "POSTGRES_PASSWORD",
    "POSTGRES_PASSWORD_FILE",
    "PGPASSWORD",
    "DB_PASSWORD",
    "MYSQL_ROOT_PASSWORD",
    "REDIS_URL",
    "BROKER_URL",
    "CELERY_BROKER_URL",
    "REDIS_PASSWORD",
    "VALKEY_PASSWORD_FILE",
    "RABBITMQ_DEFAULT_PASS",
]


@pytest.fixture
def allow(settings: Any) -> Callable[..., None]:
    def allow(*patterns: str, **more: Any) -> None:
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_REFERENCES": list(patterns), **more}

    references.forget()
    return allow


@pytest.mark.parametrize("name", KEYS)
def test_no_variable_with_a_key_is_given(
    name: str, allow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pattern allows it, not even its exact name, and the error does not quote the value."""
    value = new("key")
    monkeypatch.setenv(name, value)
    for pattern in ("env:*", f"env:{name}", f"env:{name[:5]}*", f"env:{name[:-1]}?", f"env:[{name[0]}]{name[1:]}"):
        allow(pattern)
        with pytest.raises(SecretUnavailable) as refused:
            references.resolve(f"env:{name}")
        assert not found_in(str(refused.value), value)
    assert references.wrong_with_pattern(f"env:{name}") != ""


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("spelling", [str, str.lower, lambda name: name.lower().replace("_", "-")])
def test_no_file_with_a_key_is_given(
    name: str, spelling: Callable[[str], str], allow: Callable[..., None], tmp_path: Path
) -> None:
    file = tmp_path / spelling(name)
    file.write_text(new("key"))
    (tmp_path / "smtp_password").symlink_to(file)
    for pattern in (f"file:{tmp_path}/*", f"file:{file}", f"file:{tmp_path}/smtp_password"):
        allow(pattern)
        for reference in (file, tmp_path / "smtp_password"):
            with pytest.raises(SecretUnavailable):
                references.resolve(f"file:{reference}")


@pytest.mark.parametrize("name", ["SMTP_PASSWORD_KEYS", "smtp-password-keys", "django.secret.key", "DATABASE_URL"])
def test_no_file_in_a_folder_of_keys_is_given(name: str, allow: Callable[..., None], tmp_path: Path) -> None:
    """Secrets are often mounted this way, with one file for each key."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "1").write_text(new("key"))
    (tmp_path / "folder").symlink_to(folder)
    allow(f"file:{tmp_path}/*/*", f"file:{folder}/1", f"aws-secretsmanager:{name}/*")
    for reference in (f"file:{folder}/1", f"file:{tmp_path}/folder/1", f"aws-secretsmanager:{name}/1"):
        with pytest.raises(SecretUnavailable, match=r"allow"):
            references.resolve(reference)
    assert references.wrong_with_pattern(f"file:{folder}/1") != ""


@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/thread-self/environ", "/proc/1/environ"])
def test_no_file_of_a_process_is_given(path: str, allow: Callable[..., None], tmp_path: Path) -> None:
    """The process environment contains all the keys; no pattern allows it."""
    (tmp_path / "smtp").symlink_to(path)
    allow(f"file:{path}", "file:/proc/*/*", "file:/*/*/*", f"file:{tmp_path}/*")
    for reference in (path, path.replace("self", str(os.getpid())), tmp_path / "smtp"):
        with pytest.raises(SecretUnavailable):
            references.resolve(f"file:{reference}")
    assert references.wrong_with_pattern(f"file:{path}") != ""


@pytest.mark.parametrize("place", ["env", "file", "link", "hard link", "json", "dotenv", "provider"])
@pytest.mark.parametrize("which", ["newest", "older", "SECRET_KEY", "fallback"])
def test_a_key_is_known_under_any_other_name(
    place: str, which: str, allow: Callable[..., None], settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the variable or file does not matter: a key that opens sealed values here is sent to no server."""
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = new("django-key"), [new("older-django-key")]
    sealing = [Fernet.generate_key().decode() for _ in range(2)]
    keys = [*sealing, settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS[0]]
    key = keys[("newest", "older", "SECRET_KEY", "fallback").index(which)]
    secret_text = {"json": f'{{"smtp": "{key}"}}', "dotenv": f"DEBUG=false\nKEY_OF_APP={key}\n"}.get(place, f"{key}\n")
    monkeypatch.setenv("MAIL_LOGIN", secret_text)
    (tmp_path / "elsewhere").write_text(secret_text)
    if place == "link":
        (tmp_path / "login").symlink_to(tmp_path / "elsewhere")
    elif place == "hard link":
        os.link(tmp_path / "elsewhere", tmp_path / "login")
    else:
        (tmp_path / "login").write_text(secret_text)
    Provider.secret = secret_text
    reference = {"env": "env:MAIL_LOGIN", "provider": "vault:login"}.get(place, f"file:{tmp_path}/login")
    allow(
        reference,
        SMTP_PASSWORD_KEYS=sealing,
        SECRET_PROVIDERS={"vault": f"{__name__}.Provider"},
        SECRET_TTL=0.0,
    )
    for text in (references.resolve, references.check):
        with pytest.raises(SecretUnavailable) as refused:
            text(reference)
        assert not found_in(str(refused.value), key)


class Provider:
    """A secret provider of the project."""

    secret = ""

    def resolve(self, reference: str) -> str:
        return self.secret


@pytest.mark.parametrize(
    "url", ["postgresql://mail:s3cr3t-of-pg@db/mail", "redis://:s3cr3t@valkey:6379/0", "amqps://u:p@h:5671/v\n"]
)
def test_the_address_of_a_database_is_no_password(
    url: str, allow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_STORE", url)
    allow("env:SMTP_*")
    with pytest.raises(SecretUnavailable):
        references.resolve("env:SMTP_STORE")


def test_a_file_that_a_variable_names_for_a_key_is_not_given(
    allow: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For example ``SMTP_PASSWORD_KEYS_FILE=/run/secrets/smtp_mail``, whatever the file contains."""
    (tmp_path / "smtp_mail").write_text(new("key"))
    (tmp_path / "smtp_alias").symlink_to(tmp_path / "smtp_mail")
    allow(f"file:{tmp_path}/smtp_*")
    assert references.resolve(f"file:{tmp_path}/smtp_mail")
    for name in ("SMTP_PASSWORD_KEYS_FILE", "SECRET_KEY_FILE", "DATABASE_URL_FILE", "POSTGRES_PASSWORD_FILE"):
        references.forget()
        monkeypatch.setenv(name, str(tmp_path / "smtp_alias"))
        for file in ("smtp_mail", "smtp_alias"):
            with pytest.raises(SecretUnavailable):
                references.resolve(f"file:{tmp_path}/{file}")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "path",
    [
        "/../outside",
        "/./../outside",
        "//outside",
        "/x/../../outside",
        "/link",
        "/folder/outside",
        "/%2e%2e/outside",
        "/",
    ],
)
def test_no_path_leads_out_of_the_folder(path: str, allow: Callable[..., None], tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "outside").write_text("s3cret")
    (inside / "link").symlink_to(tmp_path / "outside")
    (inside / "folder").symlink_to(tmp_path)
    allow(f"file:{inside}/*", f"file:{inside}/*/*")
    with pytest.raises(SecretUnavailable):
        references.resolve(f"file:{inside}{path}")


@pytest.mark.django_db
@pytest.mark.parametrize("field", ["password", "oauth_client_secret", "oauth_refresh_token", "oauth_private_key"])
def test_no_configuration_takes_a_key_for_a_secret(
    field: str, allow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_PASSWORD_KEYS_OLD", Fernet.generate_key().decode())
    allow("env:SMTP_*", "env:SMTP_PASSWORD_KEYS_OLD")
    stored = config()
    if field != "password":
        grant = {"oauth_refresh_token": "refresh_token", "oauth_private_key": "jwt_bearer"}
        stored.authentication, stored.oauth_grant = "oauth", grant.get(field, "client_credentials")
        stored.oauth_endpoint, stored.oauth_client_id = "https://login.example.com/token", "mailer"
    setattr(stored, field, "env:SMTP_PASSWORD_KEYS_OLD")
    with pytest.raises((ValidationError, SecretUnavailable)):
        stored.full_clean()


def test_what_is_a_password_is_given(allow: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """For all other names a pattern works as written. A name that looks like a key's must be allowed in full."""
    for name in ("SMTP_PASSWORD", "SMTP_PASSWORD_OLD", "SMTP_HOSTED_PASSWORD", "SMTP_API_KEY"):
        monkeypatch.setenv(name, "s3cret@://x")
    allow("env:SMTP_*")
    for name in ("SMTP_PASSWORD", "SMTP_PASSWORD_OLD", "SMTP_HOSTED_PASSWORD"):
        assert references.resolve(f"env:{name}") == "s3cret@://x"
    with pytest.raises(SecretUnavailable):
        references.resolve("env:SMTP_API_KEY")
    allow("env:SMTP_API_KEY")
    assert references.resolve("env:SMTP_API_KEY") == "s3cret@://x"
