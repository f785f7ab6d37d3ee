"""``.delay()``."""

import os

from celery_send_mail import tasks
from common import mail

task = getattr(tasks, os.environ.get("BENCH_TASK", "send"))


def submit(number):
    task.delay(**mail(number))
