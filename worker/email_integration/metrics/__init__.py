"""Metrics for Prometheus: what each worker counts, and what the ledger knows. Off unless a setting asks for them.

The only package that imports ``prometheus_client``, and only once something is to be measured: where it is not
installed, everything else works.
"""
