"""How gunicorn runs here: it reads this file by itself when started in this folder."""

from __future__ import annotations

#: The settings are imported before there are workers, so that a wrong value ends gunicorn itself with its line. Without
#: this, the master would start anew the workers that stop at it, for ever.
preload_app = True

workers = 2
threads = 4

#: A socket under the home directory to manage gunicorn by, which nobody here uses.
control_socket_disable = True
