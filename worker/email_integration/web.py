"""HTTP POST requests with a limit on time and on the size of the answer, and without redirects."""

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

#: Blanks and invisible characters, which some URL parsers remove, and the backslash, which some read as a slash.
_DOUBTFUL = re.compile(r"[\x00-\x20\x7f\\]")


class Unanswered(Exception):
    """There was no answer. The message names the error, and contains nothing of the request."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """An HTTP response; ``body`` is cut at the requested number of octets."""

    status: int
    body: bytes = field(repr=False)


def is_url(url: Any) -> bool:
    """Return whether data may be sent to ``url``: https, or http on this machine.

    A URL whose host parsers may read differently is refused: one parser's user name is another parser's host.
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
    """Return whether ``host`` is a name or an address of this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@with_secrets
def post(url: str, body: bytes, *, content_type: str, seconds: float, most: int = 0) -> Response:
    """POST ``body`` and return the response, of any status, with up to ``most`` octets of its body.

    A redirect is returned like any other response. Raises ``Unanswered`` within ``seconds`` seconds, whatever part of
    the request blocks, and ``ValueError`` for a URL that data may not be sent to.
    """
    if not is_url(url):
        raise ValueError("the URL must be https, or on this machine")
    request = urllib.request.Request(  # noqa: S310  # the scheme was checked
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

    # In a separate thread: a timeout limits neither a resolver nor a server that sends a byte now and then.
    threading.Thread(target=run, name="web-post", daemon=True).start()
    if not done.wait(seconds):
        raise Unanswered("no answer in time")
    if isinstance(answers[0], Unanswered):
        raise answers[0]
    return answers[0]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirects, because the data is meant for one address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _opener(host: str) -> urllib.request.OpenerDirector:
    """Return an opener for ``host``: without a proxy for this machine, because another host could read the request.

    Other hosts are reached only by https, for which the environment's proxy makes a tunnel that it cannot read.
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
    """Read the body, up to ``most`` octets or until the time ``until``, when the caller has stopped waiting."""
    body = b""
    while len(body) < most and time.monotonic() < until:
        piece = response.read1(most - len(body))
        if not piece:
            break
        body += piece
    return body
