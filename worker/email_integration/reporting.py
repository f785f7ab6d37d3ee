"""Pages of which no report of an error, such as Django's mail to ADMINS, shows what was typed or stored."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from django.views.debug import SafeExceptionReporterFilter, get_exception_reporter_filter
from django.views.decorators.debug import sensitive_post_parameters

from .secrecy import with_secrets

View = Callable[..., HttpResponseBase]


class _Nothing:
    """A project's own filter of reports, which shows of one request neither variables nor what was posted.

    Of the functions that a page runs through, Django's decorators leave out no more than those below them.
    """

    def __init__(self, project: SafeExceptionReporterFilter) -> None:
        self._project = project

    def __getattr__(self, name: str) -> Any:
        return getattr(self._project, name)

    def get_post_parameters(self, request: Any) -> Any:
        """The names of what was posted."""
        posted = self._project.get_post_parameters(request)
        return posted if settings.DEBUG else dict.fromkeys(posted, self._project.cleansed_substitute)

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> Any:
        """The names of the variables."""
        if settings.DEBUG:
            return self._project.get_traceback_frame_variables(request, tb_frame)
        return dict.fromkeys(tb_frame.f_locals, self._project.cleansed_substitute).items()


def unreported(view: View) -> View:
    """Leave what was posted, and all variables, out of reports; the rendering of the page belongs to the view."""
    inner = with_secrets(view)

    @functools.wraps(view)
    def called(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        shown = _Nothing(get_exception_reporter_filter(request))
        request.exception_reporter_filter = cast("SafeExceptionReporterFilter", shown)
        response = inner(request, *args, **kwargs)
        if isinstance(response, SimpleTemplateResponse) and not response.is_rendered:
            _render_unreported(response)
        return response

    marked: View = sensitive_post_parameters()(called)
    return marked


def _render_unreported(response: SimpleTemplateResponse) -> None:
    """Django renders a page when the view is over, and what is around that."""
    render = with_secrets(response.render)

    def once() -> SimpleTemplateResponse:
        del response.__dict__["render"]  # so that what is rendered can be pickled, for a cache
        return render()

    response.render = once  # type: ignore[method-assign]
