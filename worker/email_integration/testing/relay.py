"""A relay for tests: a real SMTP server, which the app takes for its own while it runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, get_args
from unittest import mock

from django.conf import settings

from email_integration import conf, routing
from email_integration.models import SMTPConfig
from email_integration.routing import resolver
from email_integration.sending.sessions import pool
from email_integration.smtp import Relay
from email_integration.smtpd import Fault, Faults, Message, SMTPServer

from .mails import ReceivedMail, received_mail

#: Where something can go wrong: ``CONNECT`` is the greeting, ``DOT`` the reply to the final dot.
RelayVerb = Literal["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "DOT"]

_REFUSAL = re.compile(r"[45]\d\d( [^\r\n]*)?")

#: Octets of the largest mail (RFC 1870).
_LARGEST = 64 * 1024 * 1024

T = TypeVar("T")

_running: list[FakeRelay] = []


class FakeRelay:
    """While it runs, every mail that this process sends comes here, whichever configuration is active.

    The active configuration, or Django's settings when there is none, keep their name, sender, user and password;
    only the server is replaced, and nothing is encrypted. Any user and password are right. ``timeout``, in seconds, is
    how long the app waits for any reply.

    Its start needs the extra ``testing``, and raises ``ImportError`` without.

    ``fail``, ``drop`` and ``hang`` tell it what to do wrong, at ``CONNECT`` (instead of a greeting), ``EHLO``,
    ``AUTH``, ``MAIL``, ``RCPT``, ``DATA`` or ``DOT`` (instead of the reply to the final dot), so many ``times``, or
    until ``clear_faults``. ``match`` restricts it to commands that hold this text, in any case; at ``DATA`` and
    ``DOT`` it is looked for in the envelope too, and at ``DOT`` in the content. The first that fits happens. They
    raise ``ValueError`` for what makes no sense.
    """

    def __init__(self, *, timeout: float = 2.0) -> None:
        self.timeout = timeout
        self._faults = Faults()
        self._server: SMTPServer | None = None
        self._messages: list[ReceivedMail] | None = None
        self._stack = contextlib.ExitStack()

    def __repr__(self) -> str:
        state = f"at {self.host}:{self.port}" if self._server else "not started"
        return f"<FakeRelay {state}>"

    # -- what it is told ----------------------------------------------------------------------------------------

    def fail(self, verb: RelayVerb, reply: str, *, times: int | None = None, match: str = "") -> None:
        """Answer ``reply``, such as '550 5.1.1 No such user'. After a 421 the connection is closed."""
        if not _REFUSAL.fullmatch(reply):
            raise ValueError(f"reply must be like '550 5.1.1 No such user', with a code of 4yz or 5yz, not {reply!r}.")
        self._misbehave(verb, match, times=times, reply=reply)

    def drop(self, verb: RelayVerb, *, times: int | None = None, match: str = "", taken: bool = False) -> None:
        """Close the connection instead of answering; with ``taken``, at ``DOT``, the mail is here all the same."""
        self._misbehave(verb, match, times=times, drop=not taken, drop_after_accept=taken)

    def hang(self, verb: RelayVerb, *, times: int | None = None, match: str = "", taken: bool = False) -> None:
        """Say nothing any more, until the app has waited for ``timeout`` seconds; ``taken`` as for ``drop``."""
        self._misbehave(verb, match, times=times, hang=not taken, hang_after_accept=taken)

    def clear_faults(self) -> None:
        """Do everything right from now on: forget all faults."""
        self._faults.clear()

    def _misbehave(self, verb: RelayVerb, match: str, **what: Any) -> None:
        if verb not in get_args(RelayVerb):
            raise ValueError(f"verb must be one of {', '.join(get_args(RelayVerb))}, not {verb!r}.")
        if match and verb in ("CONNECT", "EHLO", "AUTH"):
            raise ValueError(f"{verb} knows nothing of a mail that could match {match!r}.")
        self._faults.add(Fault(verb=verb, match=match, **what))

    # -- what it saw --------------------------------------------------------------------------------------------

    @property
    def messages(self) -> list[ReceivedMail]:
        """The mails it has taken, oldest first."""
        return _if_started(self._messages)

    @property
    def logins(self) -> list[str]:
        """Who logged in, one for each time."""
        return [session.user for session in _if_started(self._server).sessions if session.user is not None]

    @property
    def connections(self) -> int:
        """How often somebody connected."""
        return len(_if_started(self._server).sessions)

    @property
    def host(self) -> str:
        return _if_started(self._server).host

    @property
    def port(self) -> int:
        return _if_started(self._server).port

    # -- how it takes the relay's place ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self in _running:
            raise RuntimeError("The FakeRelay is running already.")
        with contextlib.ExitStack() as stack:
            messages: list[ReceivedMail] = []
            server = SMTPServer(
                security="plain",
                any_auth=True,
                mechanisms=["PLAIN"],
                size_limit=_LARGEST,
                faults=self._faults,
                on_message=lambda message: messages.append(_received(message)),
            )
            self._server, self._messages = stack.enter_context(server), messages
            stack.enter_context(self._in_its_place())
            stack.callback(pool.close)
            _running.append(self)
            stack.callback(_running.remove, self)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def _in_its_place(self) -> Iterator[None]:
        """Have the app find this relay. Not by ``override_settings``: what a test sets meanwhile stays its own."""
        relay_of, settings_relay, get = routing.relay_of, routing.settings_relay, conf.get

        def of_config(config: SMTPConfig) -> Relay:
            return self._instead_of(relay_of(config))

        def of_settings() -> Relay:
            route = settings_relay()
            if isinstance(route, routing.Nowhere):
                route = Relay(name=routing.SETTINGS_NAME, host="", from_email=settings.DEFAULT_FROM_EMAIL)
            return self._instead_of(route)

        def get_here(key: str) -> Any:
            if key == "REPLY_TIMEOUT":
                return min(get(key), self.timeout)
            # A test may want to look at what was sent.
            return max(get(key), 1) if key == "CONTENT_RETENTION_DAYS" else get(key)

        with (
            mock.patch.object(resolver, "relay_of", of_config),
            mock.patch.object(resolver, "settings_relay", of_settings),
            mock.patch.object(conf, "get", get_here),
        ):
            routing.forget()
            try:
                yield
            finally:
                routing.forget()

    def _instead_of(self, relay: Relay) -> Relay:
        timeout = min(relay.timeout, self.timeout)
        # A login by token becomes one by password, of which any is right.
        password = relay.password if relay.tokens is None else "token"
        relay = replace(relay, use_tls=False, use_ssl=False, tokens=None, password=password)
        return replace(relay, host=self.host, port=self.port, timeout=timeout)


def _received(message: Message) -> ReceivedMail:
    sender = "" if message.mail_from == "<>" else message.mail_from
    return received_mail(sender=sender, recipients=list(message.rcpt_tos), content=message.content)


def _if_started(value: T | None) -> T:
    if value is None:
        raise RuntimeError("The FakeRelay has not been started: use it in a with statement.")
    return value


@contextlib.contextmanager
def any_relay() -> Iterator[FakeRelay]:
    """The ``FakeRelay`` that runs, else one for the time being: nothing here ever talks to a real server."""
    if _running:
        yield _running[-1]
    else:
        with FakeRelay() as relay:
            yield relay
