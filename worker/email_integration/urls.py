"""URLs for monitoring systems. Include them in the project: ``path("", include("email_integration.urls"))``."""

from __future__ import annotations

from django.urls import path

from .operations import health, prometheus

app_name = "email_integration"

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", prometheus.metrics, name="metrics"),
]
