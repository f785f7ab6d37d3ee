"""Views whose submitted and stored values no error report shows, such as Django's mail to ADMINS."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, cast
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, QueryDict
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from django.views.debug import SafeExceptionReporterFilter, get_exception_reporter_filter
from django.views.decorators.debug import sensitive_post_parameters

from .secrecy import with_secrets

View = Callable[..., HttpResponseBase]


class _Nothing:
    """The project's own report filter, which for one request shows neither variables nor posted values.

    Django's decorators hide the variables of a function and of the functions that it calls, not of its callers.
    """

    def __init__(self, project: SafeExceptionReporterFilter) -> None:
        self._project = project

    def __getattr__(self, name: str) -> Any:
        return getattr(self._project, name)

    def get_post_parameters(self, request: Any) -> Any:
        """Return the names of the posted values, without the values unless DEBUG is set."""
        posted = self._project.get_post_parameters(request)
        return posted if settings.DEBUG else dict.fromkeys(posted, self._project.cleansed_substitute)

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> Any:
        """Return the names of the variables, without their values unless DEBUG is set."""
        if settings.DEBUG:
            return self._project.get_traceback_frame_variables(request, tb_frame)
        return dict.fromkeys(tb_frame.f_locals, self._project.cleansed_substitute).items()


def sensitive_view(view: View) -> View:
    """Return ``view`` with its posted values, query and variables left out of reports; rendering is included."""
    inner = with_secrets(view)

    @functools.wraps(view)
    def called(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        shown = _Nothing(get_exception_reporter_filter(request))
        request.exception_reporter_filter = cast("SafeExceptionReporterFilter", shown)
        with _hiding_query(request, shown.cleansed_substitute):
            response = inner(request, *args, **kwargs)
        if isinstance(response, SimpleTemplateResponse) and not response.is_rendered:
            _render_sensitive(response, _hiding_query(request, shown.cleansed_substitute))
        return response

    marked: View = sensitive_post_parameters()(called)
    return marked


@contextlib.contextmanager
def _hiding_query(request: HttpRequest, substitute: str) -> Iterator[None]:
    """After an error, leave only the names in the query string: reports show it in three places."""
    try:
        yield
    except Exception:
        if not settings.DEBUG:
            hidden = urlencode(dict.fromkeys(request.GET, substitute), safe="*")
            request.META["QUERY_STRING"] = hidden
            request.GET = QueryDict(hidden)  # immutable, as it was
        raise


def _render_sensitive(response: SimpleTemplateResponse, hiding: contextlib.AbstractContextManager[None]) -> None:
    """Hide the variables of rendering too: Django renders a template response after the view returns."""
    render = with_secrets(response.render)

    def once() -> SimpleTemplateResponse:
        del response.__dict__["render"]  # the rendered response can then be pickled, for a cache
        with hiding:
            return render()

    response.render = once  # type: ignore[method-assign]
