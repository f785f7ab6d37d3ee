"""Flower's configuration file: whoever wants to see anything has to know the password.

``celery -A config flower --conf=config/flower.py``. Flower executes this file and takes the names that are options of
its own.
"""

from __future__ import annotations

from flower.views.monitor import Metrics
from tornado.web import authenticated

from config import env
from config.env import WrongValue

# Flower gives its figures, with the names of tasks and workers, to everybody, whatever password the pages ask for.
Metrics.get = authenticated(Metrics.get)

basic_auth = env.listed("FLOWER_BASIC_AUTH")
if not basic_auth or not all(all(login.partition(":")) for login in basic_auth):
    raise WrongValue("FLOWER_BASIC_AUTH", "must be user:password, or several of them separated by commas")

# To look, not to stop workers or revoke mails: that is the admin's.
read_only = True

# A mail's keyword arguments hold nothing but its priority.
tasks_columns = "name,uuid,state,kwargs,received,runtime,retries,result,exception,worker"
