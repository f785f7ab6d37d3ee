"""Functions whose variables no report of an error shows: not Django's mail to ADMINS, nor that of any other tool.

Django leaves out the variables of a function that ``django.views.decorators.debug.sensitive_variables`` decorates, and
of all that it calls, which it finds by the name of the frame around it. That frame is here too, and needs no Django.
Behind the frame of a generator Django finds nothing, and others look for nothing: so the variables are forgotten as
well, once an error leaves the function.
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

#: How Django's filter is told that it is all of them (``SafeExceptionReporterFilter.get_traceback_frame_variables``).
_ALL = "__ALL__"


def with_secrets(function: Callable[P, R]) -> Callable[P, R]:
    """Have no report of an error show the variables of ``function``, nor those of what it calls.

    Where it is a generator or a coroutine, that holds for the errors that leave it.
    """
    # The names of the wrapper, and of its arguments, are what Django looks for.
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
    """Forget the variables of the functions that ``error``, and what it came of, have ended.

    And a text that could not be encoded, of which Django shows a part, and ``repr()`` the whole.
    Not of those that go on, nor of what was ``handled`` when the function was called, which is its caller's.
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
