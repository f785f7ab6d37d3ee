"""Tests of the whole: real worker processes beside the test."""
