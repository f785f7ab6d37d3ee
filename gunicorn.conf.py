"""How gunicorn runs here: it reads this file by itself when started in this folder."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

#: The settings are imported before there are workers, so that a wrong value ends gunicorn itself with its line. Without
#: this, the master would start anew the workers that stop at it, for ever.
preload_app = True

workers = 2
threads = 4

#: A socket under the home directory to manage gunicorn by, which nobody here uses.
control_socket_disable = True


class _Propagating(Logger):
    """What gunicorn says, by the handler of everybody else."""

    def setup(self, cfg: Any) -> None:
        """Have no handlers of its own; its levels are as configured."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True


#: Its lines look as those of everybody else (LOG_FORMAT).
logger_class = _Propagating
