"""Attacks on what is promised of secrets and people: one file for each way, and each test fails without its defence."""
