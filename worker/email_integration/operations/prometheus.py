"""``/metrics``: what the ledger knows, for whoever has the token."""

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
    """The page for Prometheus; there is none without METRICS_TOKEN, and 503 when it cannot be made."""
    if not conf.get("METRICS_TOKEN"):
        raise Http404
    if not access.is_allowed(request.headers.get("Authorization", "")):
        return HttpResponse("A bearer token is needed.\n", _TEXT, 401, headers={"WWW-Authenticate": "Bearer"})
    if not access.is_installed():
        return HttpResponse(f"{access.MISSING}\n", _TEXT, 503)
    from email_integration.metrics import ledger  # not where it is not installed

    try:
        return HttpResponse(ledger.exposition(), ledger.CONTENT_TYPE)
    except (DatabaseError, InterfaceError) as error:
        return HttpResponse(f"The database is out of reach ({type(error).__name__}).\n", _TEXT, 503)
