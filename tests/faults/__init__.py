"""The fault matrix: cause failures in a stack of real processes, and count the mails.

``python -m tests.faults`` runs all cases and prints a table. ``tests/acceptance/test_fault_*.py`` checks its counts.
"""
