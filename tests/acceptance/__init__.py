"""Tests of the whole system: real worker processes run beside the test."""
