"""Tests of single functions and classes, without database and broker."""
