"""Tests of single functions and classes; no database, no broker."""
