"""A server that repeats the AUTH data it received, in any form, is quoted without that data."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest

from email_integration.diagnosis.advice import advise
from email_integration.diagnosis.connection_test_mail import build_test_mail
from email_integration.models import Delivery
from email_integration.routing import relay_of
from email_integration.routing.token_endpoint import Account, fetch
from email_integration.smtp import NoToken, Refused, Session
from email_integration.smtp.connection_test import run_connection_test
from tests.deliveries import RecordingTaskQueue, attempt, submitted
from tests.relays import config_for, relay_to
from tests.scripted import Conversation, ScriptedServer
from tests.token_endpoint import CLIENT, TokenEndpoint, error

from .secrets import new


class Purse:
    """A token source that always returns the same token."""

    def __init__(self, token: str) -> None:
        self.token = token

    def current(self) -> str:
        return self.token

    def another(self, refused: str = "") -> str | None:
        return None


def wrapped(text: str, at: int, between: str) -> str:
    return between.join(text[start : start + at] for start in range(0, len(text), at))


#: Forms in which a server repeats the line it received.
ECHOES: dict[str, Callable[[str], str]] = {
    "whole": str,
    "quoted": lambda said: f'"{said}" is malformed',
    "in brackets": lambda said: f"<{said}>: no such user",
    "without its beginning": lambda said: f"near {said[3:]}",
    "without its end": lambda said: f"near {said[:-5]}...",
    "a piece of it": lambda said: f"near '{said[len(said) // 2 - 5 : len(said) // 2 + 6]}'",
    "eight octets of it": lambda said: f"near '{said[-12:-4]}'",
    "in two lines": lambda said: f"{said[: len(said) // 2]}\n{said[len(said) // 2 :]}",
    "in two lines, each with the code": lambda said: f"5.7.8 {said[:-5]}\n5.7.8 {said[-5:]}",
    "in lines of eleven": lambda said: wrapped(said, 11, "\n"),
    "in lines of three": lambda said: wrapped(said, 3, "\n"),
    "in lines of three, each with the code": lambda said: "5.7.8 " + wrapped(said, 3, "\n5.7.8 "),
    "with blanks": lambda said: wrapped(said, 4, " "),
    "spaced out": lambda said: " ".join(said),
    "spaced out by dots": lambda said: ".".join(said),
    "in upper case": str.upper,
    "in lower case": str.lower,
    "with swapped case": str.swapcase,
    "in percents": lambda said: urllib.parse.quote(said, safe=""),
    "in percents altogether": lambda said: "".join(f"%{ord(one):02x}" for one in said),
    "in percents twice": lambda said: urllib.parse.quote(urllib.parse.quote(said, safe=""), safe=""),
    "with backslashes": lambda said: re.sub(r"(\W)", r"\\\1", said),
    "in octal": lambda said: "".join(f"\\{ord(one):03o}" for one in said),
    "in backslashed hex": lambda said: "".join(f"\\x{ord(one):02X}" for one in said),
    "in unicode escapes": lambda said: "".join(f"\\u{ord(one):04x}" for one in said),
    "as C writes it": lambda said: "".join(f"0x{ord(one):02x}, " for one in said),
    "in JSON": json.dumps,
    "in HTML": html.escape,
    "in numbers of HTML": lambda said: "".join(f"&#{ord(one)};" for one in said),
    "in hex of HTML": lambda said: "".join(f"&#x{ord(one):x};" for one in said),
    "in quoted-printable": lambda said: re.sub(r"(\W)", lambda one: f"={ord(one[0]):02X}", said),
    "in quoted-printable altogether": lambda said: "".join(f"={ord(one):02X}" for one in said),
    "in hex": lambda said: said.encode().hex(),
    "in upper-cased hex": lambda said: said.encode().hex().upper(),
    "in hex with colons": lambda said: said.encode().hex(":"),
    "in hex with blanks": lambda said: said.encode().hex(" ", 2),
    "in base64 once more": lambda said: base64.b64encode(said.encode()).decode(),
    "in base64 after a name": lambda said: base64.b64encode(f"{said} is wrong".encode()).decode(),
    "in base64 after another octet": lambda said: base64.b64encode(b"<" + said.encode()).decode(),
    "in base64 of URLs": lambda said: base64.urlsafe_b64encode(said.encode()).decode(),
    "with stars for its middle": lambda said: f"{said[:9]}*****{said[-9:]}",
    "twice": lambda said: f"{said} is not {said}",
    "behind much else": lambda said: "x" * 1900 + said,
    "over the border of what is kept": lambda said: ("y" * 900 + "\n") * 9 + "z" * (8192 - 9 * 901 - 10) + said,
    "over the border, by a little": lambda said: ("y" * 900 + "\n") * 9 + "z" * (8192 - 9 * 901 - 7) + said,
}


def forms(given: bytes) -> set[str]:
    """Return the forms of a secret that must not be shown: itself, its base64 at any offset, and its hex."""
    encoded = {base64.b64encode(b"\0" * offset + given)[2 * offset :].decode() for offset in range(3)}
    return {given.decode(), given.hex(), *encoded}


def leaked(text: str, secrets: list[bytes]) -> list[str]:
    """Return the pieces of eight or more octets that ``text`` repeats, in any case and with any separators."""
    plainer = [text, urllib.parse.unquote(urllib.parse.unquote(text)), html.unescape(text)]
    plainer.append(re.sub(r"\\([0-7]{3})", lambda one: chr(int(one[1], 8)), text))
    plainer.append(re.sub(r"(?:\\x|\\u00|0x|=)([0-9A-Fa-f]{2})", lambda one: chr(int(one[1], 16)), text))
    plainer += [re.sub(r"^5\.7\.8 ", "", one, flags=re.M) for one in plainer]
    squeezed = [re.sub(r"[^A-Za-z0-9]", "", one).lower() for one in plainer]
    squeezed += [re.sub(r"(?i)[^0-9a-z]|0x", "", one).lower() for one in plainer]
    pieces = set()
    for secret in secrets:
        for form in forms(secret):
            form = re.sub(r"[^A-Za-z0-9]", "", form).lower()
            pieces.update(form[start : start + 8] for start in range(len(form) - 7))
    return sorted(piece for piece in pieces if any(piece in one for one in squeezed))


class EchoingAuth:
    """A server that records the secrets of an AUTH dialogue and repeats them in the form that ``echo`` makes."""

    def __init__(self, mechanism: str, echo: Callable[[str], str], *, decoded: bool = False, code: str = "535") -> None:
        self.mechanism, self.echo, self.decoded, self.code = mechanism, echo, decoded, code
        self.secrets: list[bytes] = []
        self.lines: list[str] = []

    def __call__(self, talk: Conversation) -> None:
        talk.say("220 localhost")
        while line := talk.hear().decode():
            verb, _, rest = line.partition(" ")
            verb = verb.upper()
            if verb == "EHLO":
                talk.say("250-localhost", f"250 AUTH {self.mechanism}")
            elif verb == "AUTH":
                self._log_in(talk, rest.partition(" ")[2])
            else:
                talk.say("221 bye" if verb == "QUIT" else "250 ok")

    def _log_in(self, talk: Conversation, said: str) -> None:
        challenges = {"PLAIN": [""], "LOGIN": ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"], "CRAM-MD5": ["PDFAbG9jYWxob3N0Pg=="]}
        for challenge in challenges.get(self.mechanism, [""]) if not said else []:
            talk.say(f"334 {challenge}")
            said = talk.hear().decode()
        raw = base64.b64decode(said)
        secret = re.split(rb"auth=Bearer ", raw.rstrip(b"\1"))[-1] if self.mechanism in TOKENS else raw
        secret = secret.split(b" ")[-1] if self.mechanism == "CRAM-MD5" else secret.split(b"\0")[-1]
        self.secrets, self.lines = [raw, said.encode(), secret], [*self.lines, said]
        parts = self.echo(secret.decode() if self.decoded else said).split("\n")
        talk.say(*(f"{self.code}-{part}" for part in parts[:-1]), f"{self.code} {parts[-1]}")


TOKENS = ("XOAUTH2", "OAUTHBEARER")
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", *TOKENS)


def given(mechanism: str, secret: str) -> dict[str, Any]:
    if mechanism in TOKENS:
        return {"username": "kim@example.com", "password": "", "tokens": Purse(secret)}
    return {"username": "kim@example.com", "password": secret}


@pytest.mark.parametrize("decoded", [False, True], ids=["as it was sent", "decoded"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_a_reply_gives_nothing_back(echo: Callable[[str], str], mechanism: str, decoded: bool) -> None:
    """Neither the refusal nor the stages of a connection test repeat the secret, whole or in pieces."""
    secret = new("pass")
    script = EchoingAuth(mechanism, echo, decoded=decoded)
    with ScriptedServer(script) as server:
        with pytest.raises(Refused) as caught:
            Session.open(relay_to(server, **given(mechanism, secret)))
        report = run_connection_test(relay_to(server, **given(mechanism, secret)))
    assert script.lines
    reply = caught.value.reply
    assert reply is not None
    seen = "\n".join(
        [reply.text, reply.enhanced, str(caught.value), report.summary, *(s.detail for s in report.stages)]
    )
    assert leaked(seen, [script.secrets[1], script.secrets[2]]) == []
    if echo is not str.swapcase:
        assert "***" in reply.text or len(echo("x" * 40)) > 1000


@pytest.mark.parametrize("code", ["535", "454", "504", "421", "334", "235", "503"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_code_makes_a_difference(code: str, mechanism: str) -> None:
    script = EchoingAuth(mechanism, ECHOES["without its end"], code=code)
    with ScriptedServer(script) as server:
        report = run_connection_test(relay_to(server, **given(mechanism, new("pass"))))
    assert script.lines
    seen = "\n".join([report.summary, *(stage.detail for stage in report.stages)])
    assert leaked(seen, script.secrets[1:]) == []


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize("name", ["without its end", "in two lines", "in hex", "in percents", "whole"])
def test_nor_does_a_reply_later_on(verb: str, name: str) -> None:
    """The server accepts the login, and shows its whole dialogue when a later command fails."""
    secret, said = new("pass"), []

    def script(talk: Conversation) -> None:
        talk.say("220 localhost")
        talk.hear()
        talk.say("250-localhost", "250 AUTH PLAIN")
        said.append(talk.hear().decode().split()[-1])
        talk.say("235 come in")
        echoed = "\n".join(f"{part}" for part in ECHOES[name](said[0]).split("\n"))
        reply = "\n".join([*(f"554-{part}" for part in echoed.split("\n")[:-1]), f"554 {echoed.split(chr(10))[-1]}"])
        talk.go_on(**{verb: reply})

    with ScriptedServer(script) as server:
        relay = relay_to(server, username="kim@example.com", password=secret)
        report = run_connection_test(relay, build_test_mail(relay, to="lee@example.com"))
    assert said
    assert not report.ok
    seen = "\n".join([report.summary, *(stage.detail for stage in report.stages)])
    assert "***" in seen
    assert leaked(seen, [said[0].encode()]) == []


@pytest.mark.django_db
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize(
    "name", ["without its end", "in two lines, each with the code", "in upper case", "in percents"]
)
def test_neither_rows_nor_logs_nor_connection_tests_have_it(
    name: str, mechanism: str, task_queue: RecordingTaskQueue, fresh_process: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    script = EchoingAuth(mechanism, ECHOES[name])
    with ScriptedServer(script) as server:
        stored = config_for(server, username="kim@example.com", password=new("pass"), use_tls=False)
        delivery = submitted("lee@example.com")
        attempt(delivery.pk)
        report = run_connection_test(relay_of(stored))
        stored.record_test(passed=False, detail=report.summary)
    assert script.lines
    row = Delivery.objects.get(pk=delivery.pk)
    seen = [str(row.__dict__), *(str(one.__dict__) for one in row.attempt_log.all()), str(stored.__dict__), caplog.text]
    seen += [str(one) for one in stored.history.values()]
    assert row.attempts == 1 or row.status == "deferred"
    assert leaked("\n".join(seen), script.secrets[1:]) == []


@pytest.mark.parametrize("mechanism", TOKENS)
def test_a_challenge_that_quotes_a_piece_of_the_token_is_not_quoted(mechanism: str) -> None:
    """The status and scope in the challenge are shown, and the server can put anything into them."""
    secret = new("token")

    def script(talk: Conversation) -> None:
        talk.say("220 localhost")
        talk.hear()
        talk.say("250-localhost", f"250 AUTH {mechanism}")
        talk.hear()
        failure_detail = json.dumps({"status": f"401 {secret[4:-3]}", "scope": secret[6:].upper()})
        talk.say(f"334 {base64.b64encode(failure_detail.encode()).decode()}")
        talk.hear()
        talk.say("535 no")

    with ScriptedServer(script) as server, pytest.raises(Refused) as caught:
        Session.open(relay_to(server, **given(mechanism, secret)))
    assert caught.value.reply is not None
    assert leaked(caught.value.reply.text, [secret.encode()]) == []


def test_a_reply_without_a_part_of_the_secret_is_quoted_unchanged() -> None:
    words = [
        "5.7.8 Username and Password not accepted. For more information, go to https://support.example.com/?p=BadCreds",
        "5.7.8 Error: authentication failed: UGFzc3dvcmQ6",
        "Authentication credentials invalid for kim@example.com (id 4f2a9c31d0, %41 \\x41 &#65; =3D)",
        "5.7.139 Authentication unsuccessful, the user credentials were incorrect. [AM6PR0502CA0123.eurprd05.prod]",
    ]
    for said in words:
        with ScriptedServer(EchoingAuth("PLAIN", lambda _secret, said=said: said)) as server:  # type: ignore[misc]
            with pytest.raises(Refused) as caught:
                Session.open(relay_to(server, **given("PLAIN", new("pass"))))
            assert caught.value.reply is not None
            assert caught.value.reply.text == said


# -- other characters than letters ------------------------------------------------------------------------------------

#: Forms in which a server repeats the decoded secret, by octets or by characters.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "with backslashes": lambda said: re.sub(r"(\W)", r"\\\1", said),
    "in four lines": lambda said: wrapped(said, -(-len(said) // 4), "\n"),
    "in percents": lambda said: urllib.parse.quote(said, safe=""),
    "as browsers did": lambda said: re.sub("(....)", r"%u\1", said.encode("utf-16-be").hex()),
    "in JSON": json.dumps,
    "in JSON within JSON": lambda said: json.dumps(json.dumps(said)),
    "in code points": lambda said: " ".join(f"U+{ord(one):04X}" for one in said),
    "in HTML": html.escape,
    "in HTML within HTML": lambda said: html.escape(html.escape(said)),
    "in numbers of HTML": lambda said: "".join(f"&#{ord(one)};" for one in said),
    "in numbers of HTML, as text": lambda said: html.escape("".join(f"&#{ord(one)};" for one in said)),
    "as Python writes octets": lambda said: repr(said.encode()),
    "as a list of octets": lambda said: str(list(said.encode())),
    "as a list in hex": lambda said: ", ".join(f"0x{one:02x}" for one in said.encode()),
    "in UTF-16": lambda said: "\0".join(said),
    "in hex of UTF-16": lambda said: said.encode("utf-16-be").hex(),
    "in base64 of UTF-16": lambda said: base64.b64encode(said.encode("utf-16")).decode(),
    "in quoted-printable": lambda said: "".join(f"={one:02X}" for one in said.encode()),
}

PASSWORDS = {
    "signs": "!#%&*+-<=>?^_{|}~;:,()",
    "signs and letters": "a&b<c>d%e+f=g;h/i?j#k~l",
    "accents": "pässwörtergrößeñandú",
    "Greek": "κωδικόςπρόσβασης",
    "emoji": "🔑🐎🔋📎🔑🐎🔋📎",
}


@pytest.mark.parametrize("password", PASSWORDS.values(), ids=PASSWORDS)
@pytest.mark.parametrize("echo", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "a part"])
def test_a_password_of_other_signs_is_found_too(cut: bool, echo: Callable[[str], str], password: str) -> None:
    """The replacement contains nothing of the password: neither its characters nor their numbers."""
    script = EchoingAuth("LOGIN", lambda said: f"near '{echo(said[1:-1] if cut else said)}'", decoded=True)
    with ScriptedServer(script) as server, pytest.raises(Refused) as caught:
        Session.open(relay_to(server, **given("LOGIN", password)))
    reply = caught.value.reply
    assert reply is not None
    # At most seven octets remain at each end, fewer than the shortest piece, and the quotes.
    assert re.fullmatch(r"near '.{0,7}\*\*\*.{0,7}'", reply.text, re.S), reply.text


def test_a_short_word_is_found_however_it_is_spelled() -> None:
    """Eight octets of base64 are at least four octets of the password."""
    for spelled in (str.swapcase, lambda said: urllib.parse.quote(said, safe=""), lambda said: wrapped(said, 5, "\n")):
        script = EchoingAuth("LOGIN", spelled)
        with ScriptedServer(script) as server, pytest.raises(Refused) as caught:
            Session.open(relay_to(server, **given("LOGIN", "k9!x")))
        assert caught.value.reply is not None
        assert caught.value.reply.text == "***"


# -- before and after AUTH --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", *TOKENS])
@pytest.mark.parametrize("name", ["whole", "without its end", "a piece of it", "in hex", "in percents", "in two lines"])
@pytest.mark.parametrize("greeting", ["554 5.7.1 ", "421 ", "220-", "HTTP/1.1 400 "])
@pytest.mark.parametrize("decoded", [False, True], ids=["as it was sent", "decoded"])
def test_the_next_session_is_not_greeted_with_it(decoded: bool, greeting: str, name: str, mechanism: str) -> None:
    """A server can remember the secret, for example one that blocks clients after too many failures."""
    kept: list[str] = []

    def keep(said: str) -> str:
        kept.append(said)
        return "no"

    echoing = EchoingAuth(mechanism, keep, decoded=decoded)

    def script(talk: Conversation) -> None:
        if not kept:
            echoing(talk)
            return
        code = greeting.rstrip("- ") if greeting[:3].isdigit() else ""
        between = f"\r\n{code[:3]}-" if greeting[:3].isdigit() else " "
        talk.connection.sendall(f"{greeting}{ECHOES[name](kept[0]).replace(chr(10), between)}\r\n\r\n".encode())

    secret = new("pass")
    with ScriptedServer(script) as server:
        relay = relay_to(server, **given(mechanism, secret), timeout=2)
        first, second = run_connection_test(relay), run_connection_test(relay)
    assert kept
    assert not first.ok
    assert second.failure is not None
    advised = advise(second.failure, relay)
    seen = [str(second.failure), second.summary, *(stage.detail for stage in second.stages), str(advised)]
    seen.append(second.failure.seen.first_words.decode())
    assert leaked("\n".join(seen), echoing.secrets[1:]) == []


@pytest.mark.parametrize("name", ["whole", "without its end", "in hex", "in percents", "in upper case"])
def test_nor_is_an_offer_or_a_receipt_shown_with_it(name: str) -> None:
    """The server's extensions and its receipt for a mail are shown and stored."""
    secret = new("pass")
    said = base64.b64encode(f"\0kim@example.com\0{secret}".encode()).decode()
    echo = ECHOES[name](said)

    def script(talk: Conversation) -> None:
        talk.say("220 localhost")
        talk.hear()
        talk.say("250-localhost", f"250-XTOLD {echo}", "250 AUTH PLAIN")
        talk.hear()
        talk.say("235 come in")
        talk.go_on(DOT=f"250 2.0.0 queued as {echo}")

    with ScriptedServer(script) as server:
        relay = relay_to(server, username="kim@example.com", password=secret)
        report = run_connection_test(relay, build_test_mail(relay, to="lee@example.com"))
    assert report.ok
    seen = "\n".join([*report.capabilities, *(stage.detail for stage in report.stages)])
    assert "***" in seen
    assert leaked(seen, [said.encode()]) == []


# -- token endpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["client_secret", "refresh_token"])
@pytest.mark.parametrize("cut", [slice(None), slice(3, -3), slice(-9, None)], ids=["whole", "a part", "the end"])
def test_an_endpoint_that_gives_a_secret_back_for_an_error_is_not_quoted(cut: slice, name: str) -> None:
    """An error code is shown if it is a single word, and a secret can be a single word too."""
    secret = "correct_horse_battery_staple"
    with TokenEndpoint() as endpoint:
        given = {"client_secret": "x", "refresh_token": "y", name: secret}
        more = {"scope": "", "private_key": "", "mailbox": "user", "client_id": CLIENT, "grant": "refresh_token"}
        endpoint.instead = lambda: error(secret[cut])
        with pytest.raises(NoToken) as caught:
            fetch(Account(**more, **given, endpoint=endpoint.url))
        endpoint.instead = lambda: error("mfa_required")
        with pytest.raises(NoToken, match="mfa_required"):
            fetch(Account(**more, **given, endpoint=endpoint.url))
    assert leaked(str(caught.value), [secret.encode()]) == []
