"""Functions whose variables no error report shows, neither Django's mail to ADMINS nor another tool's report.

Django hides the variables of a function that ``django.views.decorators.debug.sensitive_variables`` decorates, and of
the functions that it calls. Django finds such a function by the name of the frame around it. This module makes the same
frame without importing Django. Django does not find the frame of a generator, and other tools look for no frame.
Therefore the variables are also cleared when an error leaves the function.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

#: The value that tells Django's filter to hide all variables
#: (``SafeExceptionReporterFilter.get_traceback_frame_variables``).
_ALL = "__ALL__"


def with_secrets(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function`` wrapped so that no error report shows its variables, or those of the functions it calls.

    For a generator or a coroutine, this holds for the errors that leave it.
    """
    # Django looks for these names of the wrapper and of its arguments.
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def sensitive_variables_wrapper(*func_args: Any, **func_kwargs: Any) -> Any:
            sensitive_variables_wrapper.sensitive_variables = _ALL  # type: ignore[attr-defined]
            handled = sys.exception()
            try:
                return (yield from function(*func_args, **func_kwargs))
            except BaseException as error:
                func_args, func_kwargs = (), {}
                _forget(error, handled)
                raise

    elif inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def sensitive_variables_wrapper(*func_args: Any, **func_kwargs: Any) -> Any:
            handled = sys.exception()
            try:
                return await function(*func_args, **func_kwargs)
            except BaseException as error:
                func_args, func_kwargs = (), {}
                _forget(error, handled)
                raise

    else:

        @functools.wraps(function)
        def sensitive_variables_wrapper(*func_args: Any, **func_kwargs: Any) -> Any:
            sensitive_variables_wrapper.sensitive_variables = _ALL  # type: ignore[attr-defined]
            handled = sys.exception()
            try:
                return function(*func_args, **func_kwargs)
            except BaseException as error:
                func_args, func_kwargs = (), {}
                _forget(error, handled)
                raise

    return cast("Callable[P, R]", sensitive_variables_wrapper)


def _forget(error: BaseException, handled: BaseException | None) -> None:
    """Clear the variables of the functions that ``error`` and the errors behind it have ended.

    The text of an encoding error is cleared too: Django shows a part of it, and ``repr()`` shows all of it. Variables
    of functions that are still running stay, and so do those of ``handled``, the error that the caller was handling
    when the function was called.
    """
    left, seen = [error], {id(handled)}
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            if isinstance(one, UnicodeEncodeError | UnicodeDecodeError):
                one.object = type(one.object)()
                one.args = (one.encoding, one.object, one.start, one.end, one.reason)
            left += [other for other in (one.__cause__, one.__context__) if other is not None]
