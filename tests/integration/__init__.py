"""Integration tests: the database, Valkey and SMTP servers together, in one process."""
