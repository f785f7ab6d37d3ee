"""A relay for tests: a real SMTP server that the app uses as its relay while it runs."""

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

#: Where a fault can occur: ``CONNECT`` is the greeting, ``DOT`` the reply to the final dot.
RelayVerb = Literal["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "DOT"]

_REFUSAL = re.compile(r"[45]\d\d( [^\r\n]*)?")

#: Octets of the largest mail (RFC 1870).
_LARGEST = 64 * 1024 * 1024

T = TypeVar("T")

_running: list[FakeRelay] = []


class FakeRelay:
    """A relay that receives every mail that this process sends while it runs, whichever configuration is active.

    The active configuration, or Django's settings when there is none, keep their name, sender, user and password. Only
    the server is replaced, and TLS is not used. Any user and password are accepted. ``timeout`` is how long the app
    waits for any reply, in seconds.

    Starting it needs the extra ``testing``, and raises ``ImportError`` without it.

    ``fail``, ``drop`` and ``hang`` add faults at ``CONNECT`` (instead of a greeting), ``EHLO``, ``AUTH``, ``MAIL``,
    ``RCPT``, ``DATA`` or ``DOT`` (instead of the reply to the final dot). A fault occurs ``times`` times, or until
    ``clear_faults``. ``match`` restricts it to commands that contain this text, in any case; at ``DATA`` and ``DOT``
    also the envelope is searched, and at ``DOT`` the content. The first fault that matches occurs. The methods raise
    ``ValueError`` for an impossible fault.
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

    # -- faults ---------------------------------------------------------------------------------------------------

    def fail(self, verb: RelayVerb, reply: str, *, times: int | None = None, match: str = "") -> None:
        """Reply with ``reply``, such as '550 5.1.1 No such user'. After a 421 the connection is closed.

        The class describes ``verb``, ``times`` and ``match``. Raises ``ValueError``.
        """
        if not _REFUSAL.fullmatch(reply):
            raise ValueError(f"reply must be like '550 5.1.1 No such user', with a code of 4yz or 5yz, not {reply!r}.")
        self._misbehave(verb, match, times=times, reply=reply)

    def drop(self, verb: RelayVerb, *, times: int | None = None, match: str = "", taken: bool = False) -> None:
        """Close the connection instead of replying. With ``taken``, at ``DOT``, the mail is accepted all the same.

        The class describes ``verb``, ``times`` and ``match``. Raises ``ValueError``.
        """
        self._misbehave(verb, match, times=times, drop=not taken, drop_after_accept=taken)

    def hang(self, verb: RelayVerb, *, times: int | None = None, match: str = "", taken: bool = False) -> None:
        """Send no reply, until the app has waited for ``timeout`` seconds. ``taken`` is as for ``drop``.

        The class describes ``verb``, ``times`` and ``match``. Raises ``ValueError``.
        """
        self._misbehave(verb, match, times=times, hang=not taken, hang_after_accept=taken)

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def _misbehave(self, verb: RelayVerb, match: str, **what: Any) -> None:
        if verb not in get_args(RelayVerb):
            raise ValueError(f"verb must be one of {', '.join(get_args(RelayVerb))}, not {verb!r}.")
        if match and verb in ("CONNECT", "EHLO", "AUTH"):
            raise ValueError(f"{verb} comes before any mail, so match must be empty, not {match!r}.")
        self._faults.add(Fault(verb=verb, match=match, **what))

    # -- what the server received ---------------------------------------------------------------------------------

    @property
    def messages(self) -> list[ReceivedMail]:
        """The accepted mails, oldest first."""
        return _if_started(self._messages)

    @property
    def logins(self) -> list[str]:
        """The users who logged in, one for each login."""
        return [session.user for session in _if_started(self._server).sessions if session.user is not None]

    @property
    def connections(self) -> int:
        """The number of connections."""
        return len(_if_started(self._server).sessions)

    @property
    def host(self) -> str:
        return _if_started(self._server).host

    @property
    def port(self) -> int:
        return _if_started(self._server).port

    # -- replacing the relay -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self in _running:
            raise RuntimeError("The FakeRelay is already running.")
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
        """Make the app use this relay.

        This avoids ``override_settings``, so that a test can change settings meanwhile.
        """
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
            # A test may read the content after sending.
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
        # A login with a token becomes one with a password, because any password is accepted.
        password = relay.password if relay.tokens is None else "token"
        relay = replace(relay, use_tls=False, use_ssl=False, tokens=None, password=password)
        return replace(relay, host=self.host, port=self.port, timeout=timeout)


def _received(message: Message) -> ReceivedMail:
    sender = "" if message.mail_from == "<>" else message.mail_from
    return received_mail(sender=sender, recipients=list(message.rcpt_tos), content=message.content)


def _if_started(value: T | None) -> T:
    if value is None:
        raise RuntimeError("The FakeRelay is not started: use it in a with statement.")
    return value


@contextlib.contextmanager
def any_relay() -> Iterator[FakeRelay]:
    """Yield the running ``FakeRelay``, or a temporary one. This module never connects to a real server."""
    if _running:
        yield _running[-1]
    else:
        with FakeRelay() as relay:
            yield relay
