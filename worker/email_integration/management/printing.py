"""Commands that print lists, which people read through ``head`` or a pager."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, OutputWrapper

#: What a shell reports of a program that SIGPIPE has ended, as it ends other Unix commands.
_CLOSED = 128 + 13


class _ReaderGone(Exception):
    """The reader of the output has closed the pipe. A broken connection to a server is another error."""


class _Output(OutputWrapper):
    def write(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]  # as Django's class does
        try:
            super().write(*args, **kwargs)
        except BrokenPipeError as error:
            raise _ReaderGone from error

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError as error:
            raise _ReaderGone from error


class PrintingCommand(BaseCommand):
    """A command that ends quietly when the reader of its output has closed the pipe."""

    def __init__(self, stdout: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(stdout, *args, **kwargs)
        self.stdout = _Output(stdout or sys.stdout)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command, and write the output that Python still buffers."""
        try:
            try:
                return super().execute(*args, **options)
            finally:
                self.stdout.flush()
        except _ReaderGone:
            # Python would try to write the rest when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(_CLOSED)
