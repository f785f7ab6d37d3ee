"""Names are the field's own: no private words, no two classes with one name, no module named like its export."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("worker", "config", "bench", "tests")

#: Words that no identifier has, as patterns of the whole word, with their replacements.
IN_NO_IDENTIFIER = """
gates? | circuit breaker
probers? | half-open probe
brakes? | blocker, circuit breaker
shut | open, of a circuit breaker
stamps? | configuration generation
fenc(e|es|ed|ing) | version
(door)?bells? | wake-up
r(ing|ings|inging|ang) | wake-up, notify
lanes? | priority of a mail, queue of Celery
convoys? | batch
narrat(e|es|ed|ing|ion|or) | log event
announc(e|es|ed|er|ing|ement) | signal, event
observing | instrumentation
follow_?ups? | continuation
swept | heartbeat of the sweeper
whereabouts | routing status
narrowing | filter
standing | live status
figures? | statistics
spans | intervals
doors? | admin_auth
trials? | connection test
examin(e|es|ed|ing|ation) | diagnose
mend(s|ed|ing|able)? | fix, hint
keeping | secret cache
(un)?told | notified, reported
tell(s|ing)? | notify, report
unreported | sensitive
"""

#: Words that no class has. In a sentence, such as the name of a test, they are plain English.
IN_NO_CLASS = """
letters? | prepared message
ways? | relay access
begun | started attempt
"""

#: Words of the table that neither a documentation page nor a template has.
IN_NO_PROSE = "probers?|brakes?|stamps?|(door)?bells?|lanes?|convoys?|whereabouts"

#: Identifiers that stay, each with its reason.
ALLOWED = {
    **dict.fromkeys(("SHUT_RDWR", "SHUT_WR"), "of Python's socket"),
    **dict.fromkeys(("spans", "SPANS", "ACCEPTANCE_SPANS", "get_finished_spans"), "OpenTelemetry's word"),
    "_FENCED": "Markdown's word for a block of code",
}

#: Names that several classes have, each with its reason.
HOMONYMS = {
    "Command": "Django finds commands by this name",
    "Migration": "Django finds migrations by this name",
    "EmailBackend": "Django's name for it, one in each module of backends",
    "Connection": "a test server has its own, of the other end",
}

#: Strings and comments. Group 1 is a string that is a name, for example of a column or a key.
_NO_CODE = re.compile(
    r"""#[^\n]*|\"{3}.*?\"{3}|["']([A-Za-z_]\w*)["']|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
_DEFINED = re.compile(r"^(?:(?:async )?def |class )?(\w+)(?=\(|\[|:| *=[^=]| *: )", re.MULTILINE)
_CLASS = re.compile(r"^ *class (\w+)", re.MULTILINE)


def table(text: str) -> dict[str, str]:
    return dict(line.split(" | ") for line in text.strip().splitlines())


@cache
def sources(root: Path) -> dict[str, str]:
    """Return the code of each module by its path, without comments and without strings that are not names."""
    paths = [path for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    return {path.relative_to(root).as_posix(): _NO_CODE.sub(r" \1 ", path.read_text()) for path in paths}


def with_words(names: Iterable[str], words: str) -> set[str]:
    """Return the names that contain one of ``words``, as one word or as two adjacent words."""
    pattern = re.compile(rf"(?:^|_)(?:{'|'.join(f'(?:{word})' for word in table(words))})(?:_|$)")
    return {name for name in names if pattern.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())}


def forbidden_names(root: Path) -> set[str]:
    identifiers: set[str] = set()
    classes: set[str] = set()
    for path, source in sources(root).items():
        identifiers.update(path.removesuffix(".py").split("/"), re.findall(r"[A-Za-z_]\w*", source))
        classes.update(_CLASS.findall(source))
    return with_words(identifiers, IN_NO_IDENTIFIER) | with_words(classes, IN_NO_CLASS)


def forbidden_prose(root: Path) -> Iterator[str]:
    pattern = re.compile(rf"\b(?:{IN_NO_PROSE})\b", re.IGNORECASE)
    templates = (path for folder in ("worker", "config") for path in (root / folder).rglob("*.html"))
    for page in (*root.glob("*.md"), *(root / "docs").rglob("*.md"), *templates):
        yield from (f"{page.relative_to(root)}: {word[0]}" for word in pattern.finditer(page.read_text()))


def test_no_identifier_has_a_private_word() -> None:
    """The tables list the replacements; ``ALLOWED`` lists the identifiers that stay."""
    assert forbidden_names(ROOT) == set(ALLOWED)


def test_no_page_and_no_template_has_a_private_word() -> None:
    assert list(forbidden_prose(ROOT)) == []


def test_no_two_classes_have_the_same_name() -> None:
    names = [
        name
        for path, source in sources(ROOT).items()
        if path.startswith(("worker/", "config/"))
        for name in re.findall(r"^class (\w+)", source, re.MULTILINE)
    ]
    assert {name for name, times in Counter(names).items() if times > 1} == set(HOMONYMS)


def test_no_module_is_named_like_what_it_exports() -> None:
    modules = {path: Path(path.removesuffix("/__init__.py")).stem for path in sources(ROOT)}
    assert [path for path, name in modules.items() if name in _DEFINED.findall(sources(ROOT)[path])] == []


def test_a_planted_word_is_found(tmp_path: Path) -> None:
    for path, text in {
        "worker/app/gate.py": '"""A stamp."""\nKEY = "fence"  # a lane',
        "config/one.py": "class NextLetter:\n    letter = a_letter = mailLanes = 1",
        "tests/test_one.py": "def test_follow_up(): frigate.investigate(timestamp, string, getaway)",
        "docs/one.md": "It stamps lanes at a time stamp.",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert " ".join(sorted(forbidden_names(tmp_path))) == "NextLetter fence gate mailLanes test_follow_up"
    assert list(forbidden_prose(tmp_path)) == ["docs/one.md: stamps", "docs/one.md: lanes", "docs/one.md: stamp"]
