"""Metrics for Prometheus: the counters of each worker, and the state of the ledger. Off unless a setting enables them.

This is the only package that imports ``prometheus_client``, and it does so only when something is to be measured. If it
is not installed, everything else works.
"""
