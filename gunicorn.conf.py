"""The configuration of gunicorn, which reads this file if it is started in this folder."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

#: Import the settings before the workers start, so that a wrong value ends gunicorn with one line. Otherwise each
#: worker would end with it, and the master would start new workers for ever.
preload_app = True

workers = 2
threads = 4

#: Disable the socket under the home directory for managing gunicorn, which this project does not use.
control_socket_disable = True


class _Propagating(Logger):
    """A logger that passes gunicorn's log lines to the handlers of the root logger."""

    def setup(self, cfg: Any) -> None:
        """Configure the levels, and remove gunicorn's handlers."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True


#: Log in the format of the other programs (LOG_FORMAT).
logger_class = _Propagating
