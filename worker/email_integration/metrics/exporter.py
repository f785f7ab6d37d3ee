"""Serves what the processes of one worker count, from its main process, on WORKER_METRICS_PORT.

Nothing here keeps a worker from working: what goes wrong is logged, and there are no metrics then.
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

#: Where ``prometheus_client`` looks, when it is imported, for the folder that processes share.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no news."""


class Exporter:
    """The metrics of one worker. ``_folder`` is there once they are kept, ``_server`` once they are served."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._is_ours = False
        self._server: _Server | None = None

    def begin(self) -> None:
        """Have this process, and those that will be forked from it, count; if a setting asks for that."""
        if not conf.get("WORKER_METRICS_PORT"):
            return
        if not access.is_installed():
            logger.warning("No metrics are kept: %s", access.MISSING)
            return
        try:
            self._begin()
        except Exception as error:
            logger.error("No metrics are kept (%s: %s).", type(error).__name__, error)

    def _begin(self) -> None:
        if _FOLDER in os.environ:
            self._folder = Path(os.environ[_FOLDER])
            self._folder.mkdir(parents=True, exist_ok=True)
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="email-integration-metrics-"))
            self._is_ours = True
            os.environ[_FOLDER] = str(self._folder)
        from prometheus_client import values  # only now: see _FOLDER

        if not getattr(values.ValueClass, "_multiprocess", False):
            # It was imported before: 'celery' imports the commands of Flower where that is installed.
            values.ValueClass = values.get_value_class()
        from .counters import Counters

        counters = Counters()
        counters.connect()
        instrumentation.add(counters)

    def serve(self) -> None:
        """Answer Prometheus, once the worker's processes are there."""
        if self._folder is None or self._server is not None:
            return
        address = (conf.get("WORKER_METRICS_HOST"), conf.get("WORKER_METRICS_PORT"))
        try:
            self._server = make_server(*address, _app(self._folder, self._is_ours), _Server, _Silent)
        except OSError as error:
            logger.error("The metrics cannot be served on %s:%d (%s).", *address, error.strerror)
            return
        # A process that is forked later must not keep the port.
        after_fork_in_child(self._server.socket.close)
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        logger.info("Metrics for Prometheus are served on %s:%d.", *address)

    def end(self) -> None:
        """Have done with it."""
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
