"""Tests with a real browser, a real web server and real workers."""
