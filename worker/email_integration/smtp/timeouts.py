"""The time to wait for a server: the relay's own timeout, at most the times of RFC 5321 §4.5.3.2."""

from __future__ import annotations

from .replies import Phase

#: The times of the RFC, in seconds. It has none for EHLO, STARTTLS and AUTH: that of MAIL is used.
_MINUTES = 60.0
_AT_MOST = {
    Phase.CONNECT: 5 * _MINUTES,
    Phase.GREETING: 5 * _MINUTES,
    Phase.EHLO: 5 * _MINUTES,
    Phase.STARTTLS: 5 * _MINUTES,
    Phase.AUTH: 5 * _MINUTES,
    Phase.MAIL: 5 * _MINUTES,
    Phase.RCPT: 5 * _MINUTES,
    Phase.DATA: 2 * _MINUTES,
    Phase.CONTENT: 3 * _MINUTES,
    Phase.FINAL_DOT: 10 * _MINUTES,
}

#: A block of content waits for the line, not for a decision: a shorter time would cut off slow lines.
_CONTENT_AT_LEAST = 1 * _MINUTES


def patience(phase: Phase, timeout: float) -> float:
    """Return how many seconds one command and its reply, or one block of content, may take in ``phase``.

    ``timeout`` is the relay's, in seconds; for ``FINAL_DOT`` it is the time that the caller is ready to wait.
    """
    wanted = max(timeout, _CONTENT_AT_LEAST) if phase is Phase.CONTENT else timeout
    return min(wanted, _AT_MOST[phase])
