"""Attacks on promises about secrets and people: one file for each way. Each test fails without its defence."""
