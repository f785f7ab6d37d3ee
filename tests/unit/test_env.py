"""The environment: how the settings use it, and how each wrong value stops the start."""

from __future__ import annotations

import ast
import importlib.util
import os
import pickle
import re
import runpy
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from config import env, services
from config.env import WrongValue
from config.local.processes import PATIENCE
from email_integration import conf
from tests.mail_settings import EMAIL_NAMES, of_mail

ROOT = Path(__file__).resolve().parents[2]
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def variables() -> list[str]:
    """Return all variables that .env.example documents."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return [match[1] for line in lines if (match := re.match(r"#?([A-Z0-9_]+)=", line))]


def run(arguments: list[str], var: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project with these variables and no others that the settings read."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": "", "VAR_DIR": str(var), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def show(expression: str, var: Path, **variables: str) -> Any:
    """Evaluate an expression of the settings, called ``s``, in a separate process."""
    result = run(["-c", f"import config.settings as s; print(repr(({expression})))"], var, **variables)
    assert result.returncode == 0, result.stderr
    return ast.literal_eval(result.stdout)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"DEBUG": "perhaps"}, "DEBUG"),
        ({"DEBUG": ""}, "SECRET_KEY"),
        ({"CSRF_TRUSTED_ORIGINS": "mail.example.com"}, "CSRF_TRUSTED_ORIGINS"),
        ({"HTTPS_ONLY": "2"}, "HTTPS_ONLY"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ({"ADMINS": "root"}, "ADMINS"),
        ({"VAR_DIR": "/dev/null/var"}, "VAR_DIR"),
        ({"ENV_FILE": "/nowhere/.env"}, "ENV_FILE"),
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL"),
        ({"DATABASE_URL": "gopher://user:keep-this-secret@host/db"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://user:keep-this-secret@host:port/db"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://user:keep-this-secret@host"}, "DATABASE_URL"),
        ({"REDIS_URL": "http://user:keep-this-secret@host"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://user:keep-this-secret@host/zero"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://:keep-this-secret@host:99999/0"}, "REDIS_URL"),
        ({"BROKER_URL": "http://user:keep-this-secret@host"}, "BROKER_URL"),
        ({"BROKER_URL": "amqp:///mail"}, "BROKER_URL"),
        ({"BROKER_URL": "amqp://user:keep-this-secret@host:port//"}, "BROKER_URL"),
        ({"EMAIL_HOST": "smtp://example.com"}, "EMAIL_HOST"),
        ({"EMAIL_HOST": "smtp.example.com:587"}, "EMAIL_HOST"),
        ({"EMAIL_HOST": "[::1]:587"}, "EMAIL_HOST"),
        ({"EMAIL_HOST": "[::1]"}, "EMAIL_HOST"),
        ({"EMAIL_HOST": "kim@example.com"}, "EMAIL_HOST"),
        ({"ALLOWED_HOSTS": "http://x"}, "ALLOWED_HOSTS"),
        ({"ALLOWED_HOSTS": "localhost,mail.example.com:8000"}, "ALLOWED_HOSTS"),
        ({"ALLOWED_HOSTS": "*.example.com"}, "ALLOWED_HOSTS"),
        ({"ALLOWED_HOSTS": "::1"}, "ALLOWED_HOSTS"),
        ({"EMAIL_PORT": "abc"}, "EMAIL_PORT"),
        ({"EMAIL_PORT": "0"}, "EMAIL_PORT"),
        ({"EMAIL_PORT": "65536"}, "EMAIL_PORT"),
        ({"EMAIL_USE_TLS": "starttls"}, "EMAIL_USE_TLS"),
        ({"EMAIL_USE_TLS": "true", "EMAIL_USE_SSL": "true"}, "EMAIL_USE_SSL"),
        ({"EMAIL_TIMEOUT": "-1"}, "EMAIL_TIMEOUT"),
        ({"DEFAULT_FROM_EMAIL": "kim"}, "DEFAULT_FROM_EMAIL"),
        ({"LEASE": "120"}, "LEASE"),
        ({"LEASE": "60", "REPLY_TIMEOUT": "60"}, "LEASE"),
        ({"REPLY_TIMEOUT": "nan"}, "REPLY_TIMEOUT"),
        ({"RETRY_FIRST": "-5"}, "RETRY_FIRST"),
        ({"RETRY_FIRST": "100", "RETRY_MAX": "10"}, "RETRY_MAX"),
        ({"BREAKER_PROBE_FIRST": "0"}, "BREAKER_PROBE_FIRST"),
        ({"BREAKER_PROBE_FIRST": "100", "BREAKER_PROBE_MAX": "10"}, "BREAKER_PROBE_MAX"),
        ({"SWEEP_INTERVAL": "0"}, "SWEEP_INTERVAL"),
        ({"CONNECT_TRIES": "1.5"}, "CONNECT_TRIES"),
        ({"QUARANTINE_AFTER": "0"}, "QUARANTINE_AFTER"),
        ({"IN_DOUBT": "maybe"}, "IN_DOUBT"),
        ({"CACHE": "other"}, "CACHE"),
        ({"SMTP_PASSWORD_KEYS": "keep-this-secret"}, "SMTP_PASSWORD_KEYS"),
        ({"SMTP_PASSWORD_KEYS": f"{KEY},keep-this-secret"}, "SMTP_PASSWORD_KEYS"),
        ({"SECRET_PROVIDERS": "vault"}, "SECRET_PROVIDERS"),
        ({"SECRET_PROVIDERS": "vault=shop.secrets.Vault,=x"}, "SECRET_PROVIDERS"),
    ],
    ids=lambda value: " ".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else "",
)
def test_a_wrong_value_stops_the_start_with_one_line_that_names_the_variable(
    wrong: dict[str, str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line contains no secret."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"DEBUG": "true", "ENV_FILE": "", "VAR_DIR": str(tmp_path)} | wrong).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(WrongValue) as stopped:
        runpy.run_path(str(ROOT / "config" / "settings.py"))

    line = str(stopped.value.code)
    assert line.startswith(f"{named}: ")
    assert len(line.splitlines()) == 1
    assert "keep-this-secret" not in line


@pytest.mark.parametrize(
    "program",
    [
        ["manage.py", "check"],
        ["-m", "celery", "-A", "config", "worker"],
        ["-m", "celery", "-A", "config", "beat"],
        ["-m", "celery", "-A", "config", "flower"],
        ["-m", "gunicorn", "config.wsgi", "--bind", "127.0.0.1:0"],
    ],
    ids=lambda program: " ".join(program[:5]),
)
def test_every_program_stops_at_a_wrong_value(program: list[str], tmp_path: Path) -> None:
    """Django, Celery, Flower and gunicorn print one line on stderr and exit; none continues or restarts in a loop."""
    result = run(program, tmp_path, DEBUG="true", EMAIL_PORT="abc", HOME=str(tmp_path))

    assert result.returncode != 0
    assert result.stderr.startswith("EMAIL_PORT: must be a whole number from 1 to 65535, not 'abc'")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_secrets_are_made_once_with_debug_and_kept_private(tmp_path: Path) -> None:
    """SECRET_KEY and the Fernet key outlive the process, in files that only their owner may read."""
    expression = "s.SECRET_KEY, s.EMAIL_INTEGRATION['SMTP_PASSWORD_KEYS']"

    first = show(expression, tmp_path, DEBUG="true")

    assert show(expression, tmp_path, DEBUG="true") == first
    for name in ("secret_key", "smtp_password_key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_given_secrets_are_taken_and_nothing_is_written(tmp_path: Path) -> None:
    """The values of the environment are used unchanged."""
    given = show(
        "s.SECRET_KEY, s.EMAIL_INTEGRATION['SMTP_PASSWORD_KEYS']", tmp_path, SECRET_KEY="x", SMTP_PASSWORD_KEYS=KEY
    )

    assert given == ("x", [KEY])
    assert [path.name for path in tmp_path.iterdir()] == ["static"]


def test_all_that_start_at_once_get_the_same_secret(tmp_path: Path) -> None:
    """The first process to link its file wins. No process reads half a secret, and no temporary file is left."""
    starters = 16
    together = threading.Barrier(starters)

    def start(number: int) -> str:
        def generate() -> str:
            together.wait()  # all have seen that there is no file
            return f"secret {number}"

        return env.kept("NAME", tmp_path / "kept", generate)

    with ThreadPoolExecutor(starters) as pool:
        secrets = set(pool.map(start, range(starters)))

    assert len(secrets) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("name", sorted(env.SECRETS))
def test_a_secret_may_stand_in_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NAME_FILE names the file; its final line end is removed. An empty NAME counts as not set."""
    file = tmp_path / "secret"
    monkeypatch.setenv(f"{name}_FILE", str(file))
    for end in ("", "\n", "\r\n"):
        file.write_text(f"pass word{end}", newline="")
        monkeypatch.setenv(name, "")
        assert env.is_set(name)
        assert env.raw(name) == env.text(name) == "pass word"
    monkeypatch.setenv(name, "keep-this-secret")
    with pytest.raises(WrongValue, match=f"^{name}_FILE: cannot be set together with {name}; ") as stopped:
        env.raw(name)
    assert "keep-this-secret" not in str(stopped.value)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"], ids=["none", "empty", "a line end", "no text"])
def test_a_secret_file_that_cannot_be_used_stops_the_start(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line that names the variable and the file."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.delenv("SECRET_KEY", raising=False)
    monkeypatch.setenv("SECRET_KEY_FILE", str(file))
    problem = r"(cannot be read: \w+|is empty; write the secret into it)"
    with pytest.raises(WrongValue, match=rf"^SECRET_KEY_FILE: '{file}' {problem} "):
        env.raw("SECRET_KEY")


def test_what_is_no_secret_is_not_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name ENV_FILE also ends in _FILE."""
    (tmp_path / "file").write_text("from file")
    monkeypatch.setenv("EMAIL_HOST_FILE", str(tmp_path / "file"))
    assert not env.is_set("EMAIL_HOST")


def test_without_a_second_factor_nothing_of_it_is_imported(tmp_path: Path) -> None:
    """The database does not have its tables either."""
    asked = (
        "import sys, django; django.setup(); from config import urls; print({'django_otp', 'segno'} & set(sys.modules))"
    )
    for wanted, found in (("false", "set()"), ("true", "{'django_otp', 'segno'}")):
        variables = {"DJANGO_SETTINGS_MODULE": "config.settings", "DEBUG": "true", "ADMIN_REQUIRE_2FA": wanted}
        shown = run(["-c", asked], tmp_path, **variables)
        assert sorted(shown.stdout.strip()) == sorted(found), shown.stderr


def test_a_second_factor_that_cannot_be_asked_for_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the admin would ask only for a password."""
    for name, value in {"DEBUG": "true", "ENV_FILE": "", "VAR_DIR": str(tmp_path), "ADMIN_REQUIRE_2FA": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WrongValue, match=r"^ADMIN_REQUIRE_2FA: needs django-otp and segno; "):
        runpy.run_path(str(ROOT / "config" / "settings.py"))


def test_every_program_reads_its_secrets_from_files(tmp_path: Path) -> None:
    """The whole settings are loaded. PostgreSQL's password is separate from its URL and may contain any characters."""
    files = {
        "SECRET_KEY": "key",
        "SMTP_PASSWORD_KEYS": KEY,
        "POSTGRES_PASSWORD": "p@ss/w:rd %",
        "METRICS_TOKEN": "token",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}\n")
    shown = show(
        "s.SECRET_KEY, s.EMAIL_INTEGRATION['SMTP_PASSWORD_KEYS'], s.DATABASES['default']['PASSWORD'], "
        "s.EMAIL_INTEGRATION['METRICS_TOKEN']",
        tmp_path / "var",
        DATABASE_URL="postgres://mail@db:5432/mail",
        **{f"{name}_FILE": str(tmp_path / name) for name in files},
    )
    assert shown == ("key", [KEY], "p@ss/w:rd %", "token")


def test_the_password_in_a_url_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "other")
    assert services.database("UNSET", "postgres://user:own@host/db")["PASSWORD"] == "own"
    assert services.database("UNSET", "postgres://user@host/db")["PASSWORD"] == "other"


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    """An empty SECRET_KEY would make every signature forgeable."""
    (tmp_path / "kept").touch()

    with pytest.raises(WrongValue, match="is empty"):
        env.kept("NAME", tmp_path / "kept", str)


def test_email_settings_are_defined_only_when_their_variable_is(tmp_path: Path) -> None:
    """This is how the app recognises settings that the project has not set; an empty variable counts as not set."""
    expression = (
        "{name: value for name, value in vars(s).items()"
        " if name.startswith(('EMAIL_', 'MAILERS', 'DEFAULT_FROM')) and name != 'EMAIL_INTEGRATION'}"
    )
    server = {
        "host": "mail.example.com",
        "port": 587,
        "use_tls": True,
        "username": "user",
        "password": " password",
        "timeout": 2.5,
    }
    sender = {"DEFAULT_FROM_EMAIL": "Example <noreply@example.com>"}
    variables = {EMAIL_NAMES[option]: str(value) for option, value in server.items()}

    assert show(expression, tmp_path, DEBUG="1", EMAIL_HOST="") == of_mail()
    assert show(expression, tmp_path, DEBUG="1", **variables, **sender) == of_mail(**server) | sender


@pytest.mark.parametrize("host", ["smtp.example.com", "localhost", "192.0.2.1", "::1", "2001:db8::25", "fe80::1%eth0"])
def test_a_mail_server_is_a_name_or_an_address(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 too, in the form that sockets accept."""
    monkeypatch.setenv("EMAIL_HOST", host)

    assert env.host("EMAIL_HOST") == host


def test_allowed_hosts_are_what_django_compares_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 addresses are in brackets, as browsers send them."""
    monkeypatch.setenv("ALLOWED_HOSTS", "mail.example.com, .example.org,192.0.2.1,[2001:db8::1],*")

    expected = ["mail.example.com", ".example.org", "192.0.2.1", "[2001:db8::1]", "*"]
    assert env.host_patterns("ALLOWED_HOSTS", []) == expected


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """Variables that only the file sets are used too."""
    file = tmp_path / "some.env"
    file.write_text("SECRET_KEY=from file\nEMAIL_HOST=file.example.com\n")

    shown = show("s.SECRET_KEY, s._server['host']", tmp_path, ENV_FILE=str(file), EMAIL_HOST="env.example.com")

    assert shown == ("from file", "env.example.com")


def test_sqlite_is_fit_for_several_processes(tmp_path: Path) -> None:
    """By default and for any SQLite URL; an option in the URL takes precedence."""
    by_default = show("s.DATABASES['default']['NAME'], s.DATABASES['default']['OPTIONS']", tmp_path, DEBUG="1")
    assert by_default == (str(tmp_path / "db.sqlite3"), services.SQLITE_OPTIONS)

    assert services.database("UNSET", "sqlite:////srv/x.sqlite3")["OPTIONS"] == services.SQLITE_OPTIONS
    assert services.database("UNSET", "sqlite:////srv/x.sqlite3?timeout=3")["OPTIONS"]["timeout"] == 3
    assert services.database("UNSET", "postgres://user@host/db")["OPTIONS"] == services.POSTGRESQL_OPTIONS
    assert (
        services.database("UNSET", "postgres://user@host/db?prepare_threshold=9")["OPTIONS"]["prepare_threshold"] == 9
    )


def test_no_connection_that_goes_silent_is_waited_for_without_end() -> None:
    """It is given up well within the lease of a mail; an option in the URL takes precedence."""
    options = services.database("UNSET", "postgres://user@host/db?keepalives_idle=7")["OPTIONS"]
    assert options["keepalives_idle"] == 7
    bounds = services.POSTGRESQL_OPTIONS
    silent = bounds["keepalives_idle"] + bounds["keepalives_interval"] * bounds["keepalives_count"]
    assert 0 < silent * 1000 <= bounds["tcp_user_timeout"] <= 30_000
    assert 0 < bounds["connect_timeout"] <= 10
    mysql = services.database("UNSET", "mysql://user:password@host/db?read_timeout=3600")["OPTIONS"]
    assert mysql == {**services.MYSQL_OPTIONS, "read_timeout": 3600}
    assert all(0 < seconds <= 300 for seconds in services.MYSQL_OPTIONS.values())


def test_the_broker_is_redis_unless_another_is_named(tmp_path: Path) -> None:
    """The cache URL does not change; each transport gets its own options, and none waits without limit."""
    asked = "s.CELERY_BROKER_URL, s.CACHES['default']['LOCATION'], s.CELERY_BROKER_TRANSPORT_OPTIONS"
    redis = "redis://cache:6379/1"
    assert show(asked, tmp_path, DEBUG="1", REDIS_URL=redis) == (redis, redis, services.REDIS_OPTIONS)
    other = "rediss://broker:6380/0"
    assert show(asked, tmp_path, DEBUG="1", REDIS_URL=redis, BROKER_URL=other) == (other, redis, services.REDIS_OPTIONS)
    for url in ("amqp://user:password@broker:5672//", "amqps://broker/mail"):
        assert show(asked, tmp_path, DEBUG="1", REDIS_URL=redis, BROKER_URL=url) == (
            url,
            redis,
            services.RABBITMQ_OPTIONS,
        )
    assert services.RABBITMQ_OPTIONS["confirm_publish"]
    assert {"read_timeout", "write_timeout"} <= services.RABBITMQ_OPTIONS.keys()


def test_mysql_urls_find_a_driver() -> None:
    """mysqlclient, or PyMySQL in its place. A second call does no harm."""
    for _ in range(2):
        database = services.database("UNSET", "mysql://user:password@host:3307/mail")
        assert (database["ENGINE"], database["PORT"], database["NAME"]) == ("django.db.backends.mysql", 3307, "mail")
    assert importlib.util.find_spec("MySQLdb") is not None


@pytest.mark.parametrize(("key", "default"), conf.DEFAULTS.items())
def test_each_key_of_the_app_has_a_variable_and_a_type_it_can_be_read_as(key: str, default: object) -> None:
    """A new key must be documented and have a default from which the settings can derive the type."""
    assert isinstance(default, bool | int | float | str | list | dict)
    assert any(line.lstrip("#").startswith(f"{key}=") for line in (ROOT / ".env.example").read_text().splitlines()), (
        f"{key} is missing in .env.example"
    )


def test_every_variable_that_is_read_is_documented() -> None:
    """The variables of the settings, of ``make run``, the Procfile and Compose."""
    files = [*(ROOT / "config").rglob("*.py"), ROOT / "Procfile", ROOT / "docker-compose.yml"]
    by_python = r"""\b(?:env\.\w+\(|os\.environ\[|os\.environ\.get\()"([A-Z_]+)\""""
    read = {
        name
        for file in files
        for name in re.findall(by_python if file.suffix == ".py" else r"(?<!\$)\$\{([A-Z_]+)", file.read_text())
    }

    assert {"SECRET_KEY", "EMAIL_HOST", "CATCHER_PORT", "ADMIN_PASSWORD", "WEB_PORT", "POSTGRES_PASSWORD"} <= read
    assert read - {"DJANGO_SETTINGS_MODULE", "PATH"} <= set(variables())


def test_the_password_of_the_playground_can_be_chosen(tmp_path: Path) -> None:
    """Otherwise a password is generated and kept."""
    code = "from pathlib import Path; from config.local import run; print(run.prepare_environment(Path({!r}))[1])"
    arguments = ["-c", code.format(str(tmp_path))]

    made = run(arguments, tmp_path).stdout.strip()
    assert (tmp_path / "admin_password").read_text().strip() == made
    assert run(arguments, tmp_path, ADMIN_PASSWORD="chosen").stdout.strip() == "chosen"


def test_keys_of_the_app_keep_the_type_of_their_default(tmp_path: Path) -> None:
    """'5' becomes 5.0 for a time; the queues have other names in this project."""
    keys = ("RETRY_FIRST", "SESSIONS", "CONFIG_CACHE_TTL", "QUEUE", "JOURNAL_DIR", "IN_DOUBT")
    shown = show(
        f"[s.EMAIL_INTEGRATION[key] for key in {keys}]",
        tmp_path,
        DEBUG="1",
        RETRY_FIRST="5",
        SESSIONS="3",
        JOURNAL_DIR="/var/lib/mail",
        CONFIG_CACHE_TTL="0",
        IN_DOUBT="HOLD",
    )

    assert shown == [5.0, 3, 0.0, "mail", "/var/lib/mail", "hold"]


def test_where_passwords_may_be_kept_is_read_from_variables(tmp_path: Path) -> None:
    """Patterns become a list, and each kind of provider is followed by its class."""
    shown = show(
        "[s.EMAIL_INTEGRATION[key] for key in ('SECRET_REFERENCES', 'SECRET_PROVIDERS', 'SECRET_TTL')]",
        tmp_path,
        DEBUG="1",
        SECRET_REFERENCES="env:SMTP_*, vault:mail/*",
        SECRET_PROVIDERS="vault=shop.secrets.Vault, kms = shop.secrets.Kms",
        SECRET_TTL="0",
    )

    assert shown == [["env:SMTP_*", "vault:mail/*"], {"vault": "shop.secrets.Vault", "kms": "shop.secrets.Kms"}, 0.0]


def test_a_wrong_value_survives_pickling() -> None:
    """The error may be raised in a child process."""
    error = pickle.loads(pickle.dumps(WrongValue("NAME", "is wrong")))

    assert (error.name, error.problem, error.code) == ("NAME", "is wrong", WrongValue("NAME", "is wrong").code)
