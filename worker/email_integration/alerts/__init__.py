"""Tells people when mail needs them, once: what is wrong now is compared with the alerts that are on.

Every so often somebody looks (``look``). What is wrong and was not has one row, of which the database lets only one
looker make the first: it logs, sends the signal, and tells the web hook and ADMINS. The same when it is over. A telling
that failed is tried again at later looks.
"""

from .look import look

__all__ = ["look"]
