"""The URLs: the admin, the redirect from the root to it, and the endpoints for machines."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

handler400 = "config.admin_auth.refusals.bad_request"
handler403 = "config.admin_auth.refusals.permission_denied"
handler404 = "config.admin_auth.refusals.page_not_found"
handler500 = "config.admin_auth.refusals.server_error"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("email_integration.urls")),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]
