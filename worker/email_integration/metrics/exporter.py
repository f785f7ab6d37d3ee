"""Serve the counters of one worker's processes, from its main process, on WORKER_METRICS_PORT.

No failure here stops a worker. Failures are logged, and there are no metrics then.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from email_integration import conf
from email_integration.forks import after_fork_in_child
from email_integration.ledger import instrumentation

from . import access

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

#: The environment variable that ``prometheus_client`` reads on import, for the folder that processes share.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing for a scrape."""


class Exporter:
    """The metrics of one worker. ``_folder`` is set while they are kept, ``_server`` while they are served."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._is_ours = False
        self._server: _Server | None = None

    def begin(self) -> None:
        """Start counting in this process and in its forked children, if a setting enables it."""
        if not conf.get("WORKER_METRICS_PORT"):
            return
        if not access.is_installed():
            logger.warning("No metrics are recorded: %s", access.MISSING)
            return
        try:
            self._begin()
        except Exception as error:
            logger.error("No metrics are recorded (%s: %s).", type(error).__name__, error)

    def _begin(self) -> None:
        if _FOLDER in os.environ:
            self._folder = Path(os.environ[_FOLDER])
            self._folder.mkdir(parents=True, exist_ok=True)
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="email-integration-metrics-"))
            self._is_ours = True
            os.environ[_FOLDER] = str(self._folder)
        from prometheus_client import values  # not earlier, see _FOLDER

        if not getattr(values.ValueClass, "_multiprocess", False):
            # It was imported before: 'celery' imports the commands of Flower if that is installed.
            values.ValueClass = values.get_value_class()
        from .counters import Counters

        counters = Counters()
        counters.connect()
        instrumentation.add(counters)

    def serve(self) -> None:
        """Serve the metrics to Prometheus. Call it after the worker's processes have started."""
        if self._folder is None or self._server is not None:
            return
        address = (conf.get("WORKER_METRICS_HOST"), conf.get("WORKER_METRICS_PORT"))
        try:
            self._server = make_server(*address, _app(self._folder, self._is_ours), _Server, _Silent)
        except OSError as error:
            logger.error("The metrics cannot be served on %s:%d (%s).", *address, error.strerror)
            return
        # A process that is forked later must not keep the port open.
        after_fork_in_child(self._server.socket.close)
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        logger.info("Metrics for Prometheus are served on %s:%d.", *address)

    def end(self) -> None:
        """Stop serving, and remove the folder if it was created here."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        if self._folder is not None and self._is_ours:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None


def _app(folder: Path, is_ours: bool) -> WSGIApplication:
    from prometheus_client import CollectorRegistry, make_wsgi_app

    from .children import Children

    registry = CollectorRegistry()
    registry.register(Children(folder, is_ours=is_ours))
    metrics_app = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if conf.get("METRICS_TOKEN") and not access.is_allowed(environ.get("HTTP_AUTHORIZATION", "")):
            start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Length", "0")])
            return []
        answer: Iterable[bytes] = metrics_app(environ, start_response)
        return answer

    return app


worker_exporter = Exporter()
