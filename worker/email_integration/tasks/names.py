"""The names of the tasks. They are in messages and in result rows: changing one loses what is under way."""

SEND_EMAIL = "email_integration.tasks.send_email"
DISPATCH = "email_integration.tasks.dispatch"
SEND_PREPARED = "email_integration.tasks.send_prepared"
REPEATED = "email_integration.tasks.repeated"
SWEEP = "email_integration.tasks.sweep"
PRUNE = "email_integration.tasks.prune"
EVALUATE_ALERTS = "email_integration.tasks.evaluate_alerts"

#: What a worker must know, lest it throw messages away.
ALL = frozenset({SEND_EMAIL, DISPATCH, SEND_PREPARED, REPEATED, SWEEP, PRUNE, EVALUATE_ALERTS})

#: A question that every worker answers, by Celery's remote control.
SEES = "email_integration_sees"
KEYS = "email_integration_keys"
