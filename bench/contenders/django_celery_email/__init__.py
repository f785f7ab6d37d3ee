"""django-celery-email, as the maintained fork that runs with today's Celery and Django."""

from celery import Celery

app = Celery("django_celery_email")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
