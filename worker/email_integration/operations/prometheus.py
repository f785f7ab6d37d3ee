"""``/metrics``: the metrics of the ledger, for clients that have the token."""

from __future__ import annotations

from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from email_integration import conf
from email_integration.metrics import access
from email_integration.secrecy import with_secrets

_TEXT = "text/plain; charset=utf-8"


@require_safe
@never_cache
@with_secrets
def metrics(request: HttpRequest) -> HttpResponse:
    """Return the page for Prometheus; 404 without METRICS_TOKEN, 503 if the page cannot be made."""
    if not conf.get("METRICS_TOKEN"):
        raise Http404
    if not access.is_allowed(request.headers.get("Authorization", "")):
        return HttpResponse("A bearer token is required.\n", _TEXT, 401, headers={"WWW-Authenticate": "Bearer"})
    if not access.is_installed():
        return HttpResponse(f"{access.MISSING}\n", _TEXT, 503)
    from email_integration.metrics import ledger  # not at the top: prometheus_client may not be installed

    try:
        return HttpResponse(ledger.exposition(), ledger.CONTENT_TYPE)
    except (DatabaseError, InterfaceError) as error:
        return HttpResponse(f"The database cannot be reached ({type(error).__name__}).\n", _TEXT, 503)
