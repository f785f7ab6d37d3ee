"""Read environment variables, and end the program with one clear line if a value is wrong.

All functions that read a variable raise ``WrongValue`` for a value that they cannot use.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import TypeVar

from cryptography.fernet import Fernet
from environs import Env, EnvError

from email_integration.addresses import addresses_in, envelope_address, recipient_rule
from email_integration.exceptions import InvalidMail

T = TypeVar("T")

_env = Env()

#: Variables that NAME_FILE may give as a file, so that the secret is neither in the environment nor in .env.
SECRETS = frozenset(
    {
        "ALERT_WEBHOOK_URL",
        "BROKER_URL",
        "DATABASE_URL",
        "EMAIL_HOST_PASSWORD",
        "FLOWER_BASIC_AUTH",
        "METRICS_TOKEN",
        "POSTGRES_PASSWORD",
        "REDIS_URL",
        "SECRET_KEY",
        "SMTP_PASSWORD_KEYS",
    }
)


class WrongValue(SystemExit):
    """A variable has a value that cannot be used.

    A ``SystemExit``, because every program that reads the settings (manage.py, celery, gunicorn) must end with this
    line on stderr and a nonzero exit code, and none of them catches it.

    Args:
        name: the variable.
        problem: what is wrong and how to fix it, without the value if that is a secret.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem} (set it in the environment or in .env, see .env.example)")
        self.name = name
        self.problem = problem

    def __reduce__(self) -> tuple[type[WrongValue], tuple[str, str]]:
        return type(self), (self.name, self.problem)


def load_file(default: Path) -> None:
    """Read variables that the environment does not have from the file that ENV_FILE names, or else from ``default``.

    If ENV_FILE is set but empty, no file is read.
    """
    named = os.environ.get("ENV_FILE")
    if named == "":
        return
    path = Path(named) if named else default
    if named and not path.is_file():
        raise WrongValue(
            "ENV_FILE", f"the file {named!r} does not exist; name one that exists, or leave ENV_FILE unset"
        )
    if not path.is_file():
        return
    try:
        _env.read_env(str(path), recurse=False)
    except (OSError, UnicodeDecodeError) as error:
        raise WrongValue("ENV_FILE", f"{str(path)!r} cannot be read: {type(error).__name__}") from None


def raw(name: str) -> str:
    """Read a text with all its spaces. A secret may be in a file that NAME_FILE names."""
    value = _env.str(name, "")
    file = _env.str(f"{name}_FILE", "") if name in SECRETS else ""
    if not file.strip():
        return value
    if value.strip():
        raise WrongValue(f"{name}_FILE", f"cannot be set together with {name}; leave one of them unset")
    return _content(f"{name}_FILE", Path(file.strip()))


def _content(name: str, path: Path) -> str:
    """Read a file with one secret, without the line end that editors and echo add."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongValue(name, f"{str(path)!r} cannot be read: {type(error).__name__}") from None
    if not content.strip():
        raise WrongValue(name, f"{str(path)!r} is empty; write the secret into it")
    return content.removesuffix("\n").removesuffix("\r")


def is_set(name: str) -> bool:
    """Return whether the variable has a value. Empty values count as none, because Compose files pass them."""
    return bool(raw(name).strip())


def _read(name: str, parse: Callable[[str], T], default: T, must_be: str) -> T:
    if not is_set(name):
        return default
    try:
        return parse(name)
    except EnvError:
        raise WrongValue(name, f"must be {must_be}, not {raw(name)!r}") from None


def boolean(name: str, default: bool) -> bool:
    """Read true or false, in any of the usual spellings."""
    return _read(name, _env.bool, default, "true or false")


def whole(name: str, default: int, *, at_least: int, at_most: int | None = None) -> int:
    """Read an integer between ``at_least`` and ``at_most``, both included."""
    bounds = f"of {at_least} or more" if at_most is None else f"from {at_least} to {at_most}"
    must_be = f"a whole number {bounds}"
    value = _read(name, _env.int, default, must_be)
    if value < at_least or (at_most is not None and value > at_most):
        raise WrongValue(name, f"must be {must_be}, not {value}")
    return value


def seconds(name: str, default: float, *, zero: bool = False) -> float:
    """Read a time in seconds, finite and more than zero; with ``zero``, zero is valid too."""
    must_be = "a number of seconds, zero or more" if zero else "a number of seconds, more than zero"
    value = _read(name, _env.float, default, must_be)
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise WrongValue(name, f"must be {must_be}, not {raw(name) or value!r}")
    return value


def text(name: str, default: str = "") -> str:
    """Read a text without the spaces around it."""
    return raw(name).strip() or default


def listed(name: str, default: list[str] | None = None) -> list[str]:
    """Read a list whose items are separated by commas."""
    if not is_set(name):
        return list(default or [])
    return [item.strip() for item in raw(name).split(",") if item.strip()]


def named(name: str) -> dict[str, str]:
    """Read a list of name=value, separated by commas."""
    values = {}
    for item in listed(name):
        key, sign, value = (part.strip() for part in item.partition("="))
        if not (key and sign and value):
            raise WrongValue(name, f"must be name=value, or several separated by commas; {item!r} is not one")
        values[key] = value
    return values


def one_of(name: str, default: str, choices: tuple[str, ...]) -> str:
    """Read one of ``choices``, in upper or lower case."""
    value = text(name, default)
    for choice in choices:
        if value.lower() == choice.lower():
            return choice
    raise WrongValue(name, f"must be {' or '.join(choices)}, not {value!r}")


def host(name: str, default: str = "") -> str:
    """Read the name or address of a host, without scheme and port. An IPv6 address has no brackets."""
    value = text(name, default)
    if any(character.isspace() or character in "/@[]" for character in value) or (":" in value and not _is_ipv6(value)):
        raise WrongValue(
            name, f"must be only the name or the address of a host, without scheme, brackets or port, not {value!r}"
        )
    return value


def host_patterns(name: str, default: list[str]) -> list[str]:
    """Read patterns for the Host header, as in ALLOWED_HOSTS.

    A pattern is a name, .example.com with its subdomains, an address, or *.
    """
    values = listed(name, default)
    for value in values:
        if value == "*" or (value.startswith("[") and value.endswith("]") and _is_ipv6(value[1:-1])):
            continue
        if any(character.isspace() or character in "/@:[]*" for character in value):
            raise WrongValue(
                name,
                "must be host names like mail.example.com, without scheme and port (.example.com with its subdomains, "
                f"IPv6 as [::1], * for all), separated by commas; {value!r} is not one",
            )
    return values


def _is_ipv6(value: str) -> bool:
    try:
        IPv6Address(value)
    except ValueError:
        return False
    return True


def is_address(value: str) -> bool:
    """Return whether the text is one mail address that the app accepts, with or without a display name."""
    try:
        envelope_address(value)
    except InvalidMail:
        return False
    return True


def address(name: str) -> str:
    """Read one mail address, with or without a display name."""
    value = text(name)
    if not is_address(value):
        raise WrongValue(name, f"must be a mail address like 'Name <user@example.com>', not {value!r}")
    return value


def addresses(name: str) -> list[str]:
    """Read a list of mail addresses without display names."""
    values = _filled(name)
    for value in values:
        if not is_address(value) or addresses_in(value) != [value]:
            raise WrongValue(name, f"must be mail addresses separated by commas; {value!r} is not one")
    return values


def recipients(name: str) -> list[str]:
    """Read a list of mail addresses and domains, as ``recipient_rule`` accepts them."""
    values = _filled(name)
    for value in values:
        try:
            recipient_rule(value)
        except InvalidMail:
            raise WrongValue(
                name,
                "must be mail addresses and domains (example.com, or .example.com with its subdomains) separated by "
                f"commas; {value!r} is neither",
            ) from None
    return values


def _filled(name: str) -> list[str]:
    values = listed(name)
    if is_set(name) and not values:
        raise WrongValue(name, "contains only commas; add a value, or leave it unset")
    return values


def fernet_keys(name: str, default: list[str]) -> list[str]:
    """Read a list of Fernet keys, newest first. They are secrets and are not shown."""
    values = listed(name, default)
    for position, value in enumerate(values, start=1):
        try:
            Fernet(value)
        except ValueError:
            raise WrongValue(
                name,
                f"key {position} of {len(values)} is not a Fernet key; create one with "
                "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'",
            ) from None
    return values


def kept(name: str, path: Path, generate: Callable[[], str]) -> str:
    """Return the secret in a file, which the first call creates; safe if several processes start at once.

    Args:
        name: the variable that can be set instead, for the error message.
        path: the file, readable only by its owner.
        generate: returns a new secret.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Write the whole secret to another name, which mkstemp creates with mode 0600, then link it. Unlike a
            # rename, a link fails if another process was faster, and no process ever reads half a secret.
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(generate() + "\n")
                os.link(temporary, path)
            except FileExistsError:
                pass
            finally:
                os.unlink(temporary)
        value = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongValue(name, f"is not set, and cannot be stored in {path}: {type(error).__name__}") from None
    if not value:
        raise WrongValue(
            name, f"is not set, and {path} is empty; remove that file, and a new one is created at the next start"
        )
    return value
