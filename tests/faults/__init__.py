"""The fault matrix: what can go wrong is made to go wrong on a stack of real processes, and the mails are counted.

``python -m tests.faults`` runs it all and prints a table; ``tests/acceptance/test_fault_*.py`` asserts on its counts.
"""
