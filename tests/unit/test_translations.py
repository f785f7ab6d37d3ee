"""Every text is translated, and the compiled catalogues match their sources."""

from __future__ import annotations

import gettext
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import translation

import email_integration
from config import admin_auth

#: The packages with translated texts: the app, and the admin login in config/.
PACKAGES = [Path(email_integration.__file__).parent, Path(admin_auth.__file__).parent]
LANGUAGES = ("de", "es", "fr", "pt")


@pytest.fixture(autouse=True)
def _gettext() -> None:
    if shutil.which("xgettext") is None:
        if os.environ.get("CI"):
            pytest.fail("gettext is missing: it is in tests/debian-packages.txt")
        pytest.skip("gettext is not installed")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_text_is_translated_and_none_is_left_over(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``makemessages`` changes nothing. If it does: run it in that folder, translate, compile."""
    copy = shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(copy)
    call_command("makemessages", locale=list(LANGUAGES), no_location=True, verbosity=0)
    for language in LANGUAGES:
        catalogue = copy / "locale" / language / "LC_MESSAGES" / "django.po"
        untranslated = subprocess.run(
            ["msgattrib", "--untranslated", "--no-wrap", str(catalogue)], capture_output=True, text=True, check=True
        ).stdout
        assert re.findall(r'(?m)^msgid "(.+)"$', untranslated) == [], language
        text = catalogue.read_text()
        assert "fuzzy" not in text, language
        assert "#~" not in text, language


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_compiled_is_what_is_written(language: str, package: Path, tmp_path: Path) -> None:
    folder = package / "locale" / language / "LC_MESSAGES"
    compiled = tmp_path / "django.mo"
    subprocess.run(["msgfmt", "--check-format", "-o", str(compiled), str(folder / "django.po")], check=True)
    assert texts(compiled) == texts(folder / "django.mo")


def texts(compiled: Path) -> dict[str, str]:
    with compiled.open("rb") as file:
        return dict(gettext.GNUTranslations(file)._catalog)


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("de", "Der Versand ist angehalten."),
        ("es", "Los envíos están en pausa."),
        ("fr", "Les envois sont suspendus."),
        ("pt", "Os envios estão suspensos."),
        ("en", "Sending is paused."),
    ],
)
def test_a_text_comes_in_the_language_asked_for(language: str, words: str) -> None:
    with translation.override(language):
        assert translation.gettext("Sending is paused. New mail is accepted and held.").startswith(words)
