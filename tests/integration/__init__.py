"""Tests of the parts together: database, Valkey, SMTP servers, in one process."""
