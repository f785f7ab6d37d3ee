"""References to external secrets: their form, the allowed ones, and their results."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st

from config.local.processes import PATIENCE, wait_until
from email_integration import references
from email_integration.exceptions import SecretUnavailable
from email_integration.references import Reference, secret_cache

SECRET = "s3cret-kept-elsewhere"
HERE = f"{__name__}."
Use = Callable[..., None]


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    references.forget()
    yield
    references.forget()


@pytest.fixture
def use(settings: Any) -> Use:
    """Allow these references, and set further keys of the setting."""

    def use(*allowed: str, **keys: Any) -> None:
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_REFERENCES": list(allowed), **keys}

    return use


def refusal(text: str) -> str:
    """Return the reason why it is refused; fail if it is not."""
    with pytest.raises(SecretUnavailable) as refused, translation.override(None):
        references.resolve(text)
    return str(refused.value)


# -- the form of a reference ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("env:SMTP_PASSWORD", Reference("env", "SMTP_PASSWORD")),
        ("file:/run/secrets/smtp", Reference("file", "/run/secrets/smtp")),
        ("vault:mail/smtp#password", Reference("vault", "mail/smtp#password")),
        ("kms:a:b", Reference("kms", "a:b")),
        ("other:x", "other:x"),
        ("env:", "env:"),
        ("ENV:X", "ENV:X"),
        (" env:X", " env:X"),
        ("environment", "environment"),
        (r"\env:X", "env:X"),
        (r"\\env:X", r"\env:X"),
        (r"\other:X", "other:X"),
        (r"\secret", r"\secret"),
        ("", ""),
    ],
)
def test_known_kinds_make_a_reference_and_a_backslash_a_password(use: Use, text: str, meant: Reference | str) -> None:
    use("kms:*", SECRET_PROVIDERS={"vault": "shop.secrets.Vault"})
    assert references.parse(text) == meant


@given(st.text() | st.from_regex(r"\\*(env|file|x):.*", fullmatch=True))
def test_no_password_is_impossible(password: str) -> None:
    assert references.parse(references.as_password(password)) == password


def test_a_reference_does_not_show_what_may_be_a_password() -> None:
    assert SECRET not in repr(Reference("env", SECRET))


# -- allowed references ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        (["env:SMTP_*"], "env:SMTP_PASSWORD"),
        (["env:SMTP_[AB]"], "env:SMTP_A"),
        (["env:A", "file:/run/secrets/smtp_*"], "file:/run/secrets/smtp_password"),
        (["file:/run/*/smtp"], "file:/run/secrets/smtp"),
        (["env:SMTP_API_KEY"], "env:SMTP_API_KEY"),
        (["vault:mail/*"], "vault:mail/smtp/first"),
    ],
)
def test_what_fits_a_pattern_is_allowed(use: Use, allowed: list[str], text: str) -> None:
    use(*allowed)
    found = references.parse(text)
    assert isinstance(found, Reference)
    references.allow(found)


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        ([], "env:SMTP_PASSWORD"),
        (["env:SMTP_*"], "env:PATH"),
        (["env:SMTP_*"], "env:smtp_password"),
        (["env:SMTP_*"], "file:/run/secrets/smtp"),
        # Secrets that open other data.
        (["env:*"], "env:SECRET_KEY"),
        (["env:SECRET_KEY"], "env:SECRET_KEY"),
        (["env:*"], "env:DJANGO_SECRET_KEY_FALLBACKS"),
        (["env:*"], "env:AWS_SECRET_ACCESS_KEY"),
        (["env:SMTP_*"], "env:SMTP_PASSWORD_KEYS"),
        (["file:/run/secrets/*"], "file:/run/secrets/secret_key"),
        (["file:/run/secrets/*"], "file:/run/secrets/smtp-password-keys"),
        (["file:/run/secrets/*"], "file:/run/secrets/tls.key"),
        # Outside the folder.
        (["file:/run/secrets/*"], "file:/run/secrets/../passwd"),
        (["file:/run/secrets/*"], "file:/run/secrets/a/../../passwd"),
        (["file:/run/secrets/*"], "file:/run/secrets/sub/passwd"),
        (["file:/run/secrets/*"], "file:/run/secrets//passwd"),
        (["file:/run/secrets/*"], "file://run/secrets/passwd"),
        (["file:/run/secrets/*"], "file:/run/secrets/./passwd"),
        (["file:/run/secrets/*"], "file:/run/secrets/"),
        (["file:/run/secrets/*"], "file:run/secrets/passwd"),
        (["file:/run/secrets/*"], "file:/run/secrets/pass\0wd"),
        (["file:/run/secrets/../x"], "file:/run/secrets/../x"),
    ],
)
def test_all_else_is_not_and_is_not_quoted(use: Use, allowed: list[str], text: str) -> None:
    """It may be a password that begins like a reference."""
    use(*allowed)
    said = refusal(text)
    assert "SECRET_REFERENCES does not allow" in said
    assert "backslash" in said
    assert text.partition(":")[2] not in said


# -- the environment and files --------------------------------------------------------------------------------------


def test_a_variable(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use("env:SMTP_*")
    monkeypatch.setenv("SMTP_PASSWORD", SECRET)
    assert references.resolve("env:SMTP_PASSWORD") == SECRET
    assert refusal("env:SMTP_NONE") == "The environment variable SMTP_NONE is not set."


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"pass word", "pass word"),
        (b" p \n", " p "),
        (b"p\r\n", "p"),
        (b"p\n\n", "p\n"),
        ("pässwörd\n".encode(), "pässwörd"),
    ],
)
def test_a_file_without_its_line_end(use: Use, tmp_path: Path, content: bytes, password: str) -> None:
    use(f"file:{tmp_path}/*")
    (tmp_path / "smtp").write_bytes(content)
    assert references.resolve(f"file:{tmp_path}/smtp") == password


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"x" * 65537], ids=["empty", "blank", "binary", "large"])
def test_a_file_that_holds_no_password(use: Use, tmp_path: Path, content: bytes) -> None:
    use(f"file:{tmp_path}/*")
    (tmp_path / "smtp").write_bytes(content)
    assert "contains no password" in refusal(f"file:{tmp_path}/smtp")


def test_what_is_no_file_is_not_waited_for(use: Use, tmp_path: Path) -> None:
    """Reading a pipe would hang until another process writes to it."""
    use(f"file:{tmp_path}/*", SECRET_TIMEOUT=60.0)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert "contains no password" in refusal(f"file:{tmp_path}/pipe")
    assert "does not exist or cannot be read" in refusal(f"file:{tmp_path}/folder")
    assert "does not exist or cannot be read" in refusal(f"file:{tmp_path}/none")


def test_links_lead_out_of_no_folder(use: Use, tmp_path: Path) -> None:
    """Links within the folder are allowed; Kubernetes uses them."""
    inside, outside = tmp_path / "secrets", tmp_path / "outside"
    for folder in (inside / "..data", outside):
        folder.mkdir(parents=True)
        (folder / "smtp").write_text(SECRET)
        (folder / "smtp_key").write_text(SECRET)
    (inside / "smtp").symlink_to("..data/smtp")
    (inside / "elsewhere").symlink_to(outside / "smtp")
    (inside / "folder").symlink_to(outside)
    (inside / "key").symlink_to("..data/smtp_key")
    (inside / "harmless").symlink_to("..data/smtp_key")
    (tmp_path / "linked").symlink_to(inside)
    use(f"file:{inside}/*", f"file:{inside}/folder/smtp", f"file:{tmp_path}/linked/smtp")

    assert references.resolve(f"file:{inside}/smtp") == SECRET
    assert references.resolve(f"file:{tmp_path}/linked/smtp") == SECRET
    assert "does not allow" in refusal(f"file:{inside}/elsewhere")
    assert "does not allow" in refusal(f"file:{inside}/harmless")
    assert references.resolve(f"file:{inside}/folder/smtp") == SECRET  # the setting names this path in full


# -- the project's own providers ------------------------------------------------------------------------------------


class Counting:
    """A provider whose answer contains the number of calls."""

    asked = 0

    def resolve(self, reference: str) -> str:
        type(self).asked += 1
        return f"{reference} {self.asked}"


class Failing:
    def resolve(self, reference: str) -> str:
        raise RuntimeError(f"the secret is {SECRET}")


class Explaining:
    def resolve(self, reference: str) -> str:
        raise SecretUnavailable(f"There is no {reference} in the vault.")


class Hanging:
    let_go = threading.Event()

    def resolve(self, reference: str) -> str:
        self.let_go.wait(PATIENCE)
        return SECRET


class Empty:
    def resolve(self, reference: str) -> str:
        return "\n"


class Wrong:
    def resolve(self, reference: str) -> Any:
        return None


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        ("Failing", "The provider of “vault:” failed or has no such secret (RuntimeError)."),
        ("Explaining", "There is no smtp in the vault."),
        ("Empty", "The provider of “vault:” failed or has no such secret (ValueError)."),
        ("Wrong", "The provider of “vault:” failed or has no such secret (ValueError)."),
        ("Missing", "The provider of “vault:” failed or has no such secret (ImportError)."),
    ],
)
def test_what_a_provider_fails_with_is_reported_without_a_secret(use: Use, provider: str, says: str) -> None:
    use("vault:*", SECRET_PROVIDERS={"vault": HERE + provider})
    assert refusal("vault:smtp") == says


def test_an_unknown_kind_is_refused(use: Use) -> None:
    use("vault:*")
    assert refusal("vault:smtp") == "SECRET_PROVIDERS has no provider for “vault:”."


def test_a_provider_that_hangs_is_given_up_and_asked_no_second_time(use: Use) -> None:
    use("vault:*", SECRET_PROVIDERS={"vault": HERE + "Hanging"}, SECRET_TIMEOUT=0.05)
    Hanging.let_go.clear()
    before = threading.active_count()
    said = {refusal("vault:smtp") for _ in range(3)}
    assert said == {"The provider of “vault:” did not answer within 0.05 seconds."}
    assert threading.active_count() <= before + 1
    Hanging.let_go.set()
    use("vault:*", SECRET_PROVIDERS={"vault": HERE + "Hanging"}, SECRET_TIMEOUT=60.0)
    assert references.resolve("vault:smtp") == SECRET


def test_a_late_answer_is_kept_for_the_next_caller(use: Use) -> None:
    use("vault:*", SECRET_PROVIDERS={"vault": HERE + "Hanging"}, SECRET_TIMEOUT=0.05)
    Hanging.let_go.clear()
    refusal("vault:late")
    Hanging.let_go.set()
    wait_until(lambda: Reference("vault", "late") in secret_cache._kept, what="the answer")
    use("vault:*", SECRET_PROVIDERS={"vault": HERE + "Failing"})
    assert references.resolve("vault:late") == SECRET


# -- secret cache ---------------------------------------------------------------------------------------------------


def test_a_secret_is_kept_for_a_while(use: Use) -> None:
    use("vault:*", SECRET_PROVIDERS={"vault": HERE + "Counting"})
    first = references.resolve("vault:x")
    assert references.resolve("vault:x") == first
    assert references.resolve("vault:x", anew=True) != first
    use("vault:*", SECRET_PROVIDERS={"vault": HERE + "Counting"}, SECRET_TTL=0)
    assert references.resolve("vault:x") != references.resolve("vault:x")


def test_what_is_kept_is_not_given_when_it_is_no_longer_allowed(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use("env:SMTP_*")
    monkeypatch.setenv("SMTP_PASSWORD", SECRET)
    references.resolve("env:SMTP_PASSWORD")
    use()
    assert "does not allow" in refusal("env:SMTP_PASSWORD")


def test_a_refused_secret_is_read_again_once_for_all_who_had_it(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use("env:SMTP_*")
    monkeypatch.setenv("SMTP_PASSWORD", "old")
    old = references.resolve("env:SMTP_PASSWORD")
    assert not references.renew("env:SMTP_PASSWORD", refused=old)
    monkeypatch.setenv("SMTP_PASSWORD", "new")
    assert references.resolve("env:SMTP_PASSWORD") == "old"
    assert references.renew("env:SMTP_PASSWORD", refused=old)
    assert references.resolve("env:SMTP_PASSWORD") == "new"
    monkeypatch.delenv("SMTP_PASSWORD")
    assert references.renew("env:SMTP_PASSWORD", refused=old)  # known by now, and no provider is asked
    assert not references.renew("env:SMTP_PASSWORD", refused="new")
    assert not references.renew("a password", refused="a password")


def test_a_child_of_a_fork_waits_for_nothing_of_its_parents(use: Use) -> None:
    """It waits neither for a lock held in the parent, nor for a thread that exists only in the parent."""
    use("vault:*", SECRET_PROVIDERS={"vault": HERE + "Hanging"}, SECRET_TIMEOUT=0.05)
    Hanging.let_go.clear()
    refusal("vault:fork")
    use("vault:*", SECRET_PROVIDERS={"vault": HERE + "Counting"}, SECRET_TIMEOUT=30.0)
    with secret_cache._lock:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if references.resolve("vault:fork").startswith("fork") else 2
            finally:
                os._exit(code)
    Hanging.let_go.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("allowed", "text", "says"),
    [
        (["env:SMTP_*"], "vualt:smtp", "is not a known kind of reference (env:, file:, aws-secretsmanager:)"),
        (["env:SMTP_*"], "env:SMTP_NONE", "not set"),
        (["env:SMTP_*"], "env:PATH", "does not allow"),
        ([], "env:PATH", "does not allow"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_is_entered(
    use: Use, allowed: list[str], text: str, says: str
) -> None:
    use(*allowed)
    with pytest.raises(SecretUnavailable, match=says.replace("(", r"\(").replace(")", r"\)")):
        references.check(text)


@pytest.mark.parametrize("password", ["vualt:smtp", "a:b", "no reference", r"\env:X"])
def test_a_password_is_a_password_where_there_are_no_references(use: Use, password: str) -> None:
    use()
    references.check(password)
