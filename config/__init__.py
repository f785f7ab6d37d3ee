"""The Django project that runs the app: settings from the environment, the Celery app, URLs, WSGI."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
