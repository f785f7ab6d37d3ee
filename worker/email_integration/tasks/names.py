"""The names of the tasks. Messages and result rows contain them, so changing a name loses tasks in progress."""

SEND_EMAIL = "email_integration.tasks.send_email"
DISPATCH = "email_integration.tasks.dispatch"
SEND_PREPARED = "email_integration.tasks.send_prepared"
REPEATED = "email_integration.tasks.repeated"
SWEEP = "email_integration.tasks.sweep"
PRUNE = "email_integration.tasks.prune"
EVALUATE_ALERTS = "email_integration.tasks.evaluate_alerts"

#: The tasks that a worker must know. It discards messages of unknown tasks.
ALL = frozenset({SEND_EMAIL, DISPATCH, SEND_PREPARED, REPEATED, SWEEP, PRUNE, EVALUATE_ALERTS})

#: Questions that every worker answers through Celery's remote control.
SEES = "email_integration_sees"
KEYS = "email_integration_keys"
