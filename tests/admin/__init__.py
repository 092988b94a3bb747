"""Tests of clinfra's admin."""
