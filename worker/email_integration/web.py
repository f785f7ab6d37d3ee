"""Calling somebody by HTTP: one POST, with a bound on its time and its answer, and no way to send it elsewhere."""

from __future__ import annotations

import http.client
import re
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from email_integration.secrecy import with_secrets

#: Blanks and unseen characters, which some readers of a URL leave out, and what some take for a slash.
_DOUBTFUL = re.compile(r"[\x00-\x20\x7f\\]")


class Unanswered(Exception):
    """There was no answer. The message is the name of what went wrong, with nothing of what was sent."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """What came back; ``body`` is cut where it would be longer than what was asked for."""

    status: int
    body: bytes = field(repr=False)


def is_url(url: Any) -> bool:
    """Whether something may be sent there: https, or http on this machine.

    Not where its readers differ about the host: what one takes for a user name is the host for another.
    """
    try:
        if _DOUBTFUL.search(url):
            return False
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except (ValueError, TypeError, AttributeError):
        return False
    return (
        bool(host)
        and "@" not in parts.netloc
        and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host or "")))
    )


def is_loopback(host: str) -> bool:
    """Whether it names this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@with_secrets
def post(url: str, body: bytes, *, content_type: str, seconds: float, most: int = 0) -> Response:
    """POST ``body``, and give the answer with up to ``most`` octets of its body, whatever its status.

    A redirect is an answer like any other. Raises ``Unanswered``, within ``seconds`` whatever hangs, and ``ValueError``
    for a URL that nothing may be sent to.
    """
    if not is_url(url):
        raise ValueError("the URL must be https, or on this machine")
    request = urllib.request.Request(  # noqa: S310  # the scheme is known
        url, data=body, headers={"Content-Type": content_type, "Accept": "application/json"}, method="POST"
    )
    answers: list[Response | Unanswered] = []
    done = threading.Event()

    def run() -> None:
        try:
            answers.append(_open(request, seconds, most))
        except Unanswered as error:
            answers.append(error)
        except Exception as error:
            answers.append(Unanswered(type(error).__name__))
        finally:
            done.set()

    # A thread of its own: neither a resolver nor a server that sends a byte now and then minds a timeout.
    threading.Thread(target=run, name="web-post", daemon=True).start()
    if not done.wait(seconds):
        raise Unanswered("no answer in time")
    if isinstance(answers[0], Unanswered):
        raise answers[0]
    return answers[0]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What was meant for one address is not sent to another."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _opener(host: str) -> urllib.request.OpenerDirector:
    """How to get to ``host``: by no proxy if it is this machine, for which a proxy is another one that reads along.

    Elsewhere only https leads, for which the proxy of the environment makes a tunnel that it cannot look into.
    """
    proxies = [urllib.request.ProxyHandler({})] if is_loopback(host) else []
    return urllib.request.build_opener(_NoRedirects, *proxies)


def _open(request: urllib.request.Request, seconds: float, most: int) -> Response:
    until = time.monotonic() + seconds
    opener = _opener(urlsplit(request.full_url).hostname or "")
    try:
        with opener.open(request, timeout=seconds) as response:
            return Response(status=response.status, body=_read(response, most, until))
    except urllib.error.HTTPError as error:
        with error:
            return Response(status=error.code, body=_read(error, most, until))
    except urllib.error.URLError as error:
        raise Unanswered(type(error.reason).__name__) from None
    except http.client.HTTPException as error:
        raise Unanswered(type(error).__name__) from None


def _read(response: Any, most: int, until: float) -> bytes:
    """What there is of the body, up to ``most`` octets or until nobody waits for it any more."""
    body = b""
    while len(body) < most and time.monotonic() < until:
        piece = response.read1(most - len(body))
        if not piece:
            break
        body += piece
    return body
