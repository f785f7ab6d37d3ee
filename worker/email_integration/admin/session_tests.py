"""Connection tests of unsaved settings, kept in the session of the user who made them.

If the user saves exactly what was tested, the test counts as the configuration's last test, so that a new configuration
can be activated at once although REQUIRE_TEST_BEFORE_ACTIVATE is set.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

from django.http import HttpRequest

from email_integration.models import SMTPConfig
from email_integration.timezones import as_stored

#: How long a test counts, in seconds.
VALID_FOR = 3600

#: How many tests a session keeps. A new one replaces the oldest.
MOST = 20

_KEY = "email_integration_tests"


class SessionTests:
    """The passed tests in one session, by the keyed digest of their settings, which covers the secrets."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._user = str(request.user.pk)

    def note(self, settings: str, *, passed: bool, detail: str) -> None:
        """Keep a passed test of ``settings``, a digest; forget an earlier one if the test failed."""
        if not settings:
            return
        kept = {name: test for name, test in self._valid().items() if name != settings}
        if passed:
            kept[settings] = {"user": self._user, "at": time.time(), "detail": detail[:255]}
        self._request.session[_KEY] = dict(list(kept.items())[-MOST:])

    def apply_to(self, config: SMTPConfig) -> bool:
        """Make the kept test of the settings of ``config`` its last one. Return whether there is one."""
        if config.passed_test:
            return False
        test = self._valid().get(config.settings_digest())
        if test is None:
            return False
        config.tested_at = as_stored(dt.datetime.fromtimestamp(test["at"], tz=dt.UTC))
        config.test_passed, config.test_detail = True, test["detail"]
        config.tested_settings = config.settings_digest()
        return True

    def _valid(self) -> dict[str, Any]:
        """Return the tests of this user that still count, the oldest first."""
        since = time.time() - VALID_FOR
        kept: dict[str, Any] = self._request.session.get(_KEY, {})
        return {name: test for name, test in kept.items() if test["user"] == self._user and test["at"] > since}
