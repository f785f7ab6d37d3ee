"""Flower's configuration file: all pages need the password.

``celery -A config flower --conf=config/flower.py``. Flower executes this file and uses the names that are its own
options.
"""

from __future__ import annotations

from flower.views.monitor import Metrics
from tornado.web import authenticated

from config import env
from config.env import WrongValue

# Without this, Flower publishes its metrics, with the names of tasks and workers, even if the pages need a password.
Metrics.get = authenticated(Metrics.get)

basic_auth = env.listed("FLOWER_BASIC_AUTH")
if not basic_auth or not all(all(login.partition(":")) for login in basic_auth):
    raise WrongValue("FLOWER_BASIC_AUTH", "must be user:password, or several separated by commas")

# Flower is for viewing. The admin is the place to stop mail, and workers are not stopped from here.
read_only = True

# The only keyword argument of a mail is its priority.
tasks_columns = "name,uuid,state,kwargs,received,runtime,retries,result,exception,worker"
