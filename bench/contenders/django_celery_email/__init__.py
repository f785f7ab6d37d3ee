"""django-celery-email, in the maintained fork that runs with the current Celery and Django."""

from celery import Celery

app = Celery("django_celery_email")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
