"""Compose, render, encrypt, store and preview mails as bytes."""
