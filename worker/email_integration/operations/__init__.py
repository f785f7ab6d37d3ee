"""Endpoints for machines: health, readiness, metrics."""
