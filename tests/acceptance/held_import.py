"""Block a worker's main process for ever in the import of the recovery module, as a busy machine may for a while."""

from __future__ import annotations

import os
import sys
import threading
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

HELD = "email_integration.sending.recovery"


class _HeldLoader(SourceFileLoader):
    """A loader that holds the lock of the module, but not the global import lock, for which a fork would wait."""

    def exec_module(self, module: ModuleType) -> None:
        threading.Event().wait()


class _Holding(MetaPathFinder):
    """A finder that blocks only in this process, not in the processes forked from it."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != HELD or os.getpid() != self._pid:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _HeldLoader(name, spec.origin)
        return spec


sys.meta_path.insert(0, _Holding())
