"""Beat's entries in the database, by django-celery-beat."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from config.local.processes import wait_until
from config.local.valkey import Valkey
from email_integration.smtpd import SMTPServer
from tests.broker import messages
from tests.host_project import CONFIGURE, HostProject

pytestmark = pytest.mark.extra

SETTINGS = """
INSTALLED_APPS += ["django_celery_beat"]
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
EMAIL_INTEGRATION |= {"SWEEP_INTERVAL": 0.5, "ALERT_INTERVAL": 1.5}
"""

ENTRIES = """
import json
from django_celery_beat.models import PeriodicTask
print(json.dumps({
    one.task.rpartition(".")[2]: [one.expire_seconds, one.interval and one.interval.every]
    for one in PeriodicTask.objects.filter(task__startswith="email_integration")
}))
"""


#: Submits a mail that only a sweep wakes.
SEND_LATER = """
from email_integration.tasks import send_email
later = send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, countdown=1)
print(later.get(timeout=100)["status"])
"""


def test_its_messages_expire(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    smtp_server: Callable[..., SMTPServer],
    valkey: Valkey,
) -> None:
    """Without a worker the messages would pile up. Mail that is due later is sent once a worker runs."""
    pytest.importorskip("django_celery_beat", reason="it is not there for this Django")
    row("django-celery-beat", "sweeps expire, and come at whole seconds; mail is sent")
    server, project = smtp_server(), host(SETTINGS)
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=server.port))
    project.start_beat()
    wait_until(lambda: len(messages(valkey, "celery")) > 1, what="sweeps in the queue")
    assert all(message.headers["expires"] for message in messages(valkey, "celery"))
    assert json.loads(project.shell(ENTRIES)) == {"sweep": [660, 1], "prune": [3600, None], "evaluate_alerts": [660, 2]}
    project.start_worker(beat=False)
    assert project.shell(SEND_LATER).strip() == "accepted"
