"""A slow shared cache: its answers are out of date when they arrive."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from config.local.processes import wait_until
from email_integration.smtpd import SMTPServer
from tests.host_project import CONFIGURE, SEND, HostProject

pytestmark = pytest.mark.extra

#: The first answer is slow, so the cache is asked once more before the mail begins. From then on, all other answers to
#: that process are held back; "held" reports as soon as a thread that sends mail waits for one.
SLOW_CACHE = """
import os, threading, time
from django.core.cache.backends.redis import RedisCache

holds = False

class SlowCache(RedisCache):
    def get(self, key, *args, **kwargs):
        global holds
        answer = super().get(key, *args, **kwargs)
        if key == "email_integration:generation":
            if os.path.exists("slow"):
                time.sleep(0.3)
                os.rename("slow", "hold")
                holds = True
            elif holds:
                while os.path.exists("hold"):
                    if threading.current_thread() is not threading.main_thread():
                        open("held", "w").close()
                    time.sleep(0.01)
        return answer
"""

SETTINGS = """
CACHES["default"]["BACKEND"] = "proj.cache.SlowCache"
EMAIL_INTEGRATION["CONFIG_CACHE_TTL"] = 3600.0
"""

SUBMIT = """
from email_integration.tasks import send_email
send_email.delay("Subject", "Text", to=["kim@example.com"])
"""

ADD = CONFIGURE.replace('"Ours"', '"New"').replace("is_active=True", "is_active=False")
SAVE = """
from email_integration.models import SMTPConfig
new = SMTPConfig.objects.get(name="New")
new.is_active = True
new.save()
"""


def test_no_mail_goes_by_the_old_server_after_save(
    row: Callable[[str, str], None], host: Callable[..., HostProject], smtp_server: Callable[..., SMTPServer]
) -> None:
    row("a cache that answers slower than a save takes", "mail is sent by the new server")
    old, new = smtp_server(), smtp_server()
    project = host(SETTINGS)
    (project.folder / "proj" / "cache.py").write_text(SLOW_CACHE)
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=old.port) + ADD.format(port=new.port))
    project.start_worker("--concurrency", "1")
    assert project.shell(SEND).strip() == "accepted"

    (project.folder / "slow").touch()
    project.shell(SUBMIT)
    wait_until((project.folder / "held").exists, what="the worker's request to the cache before a mail")
    project.shell(SAVE)
    (project.folder / "hold").unlink()

    wait_until(lambda: len(old.messages) + len(new.messages) == 2, what="the second mail")
    assert (len(old.messages), len(new.messages)) == (1, 1)
