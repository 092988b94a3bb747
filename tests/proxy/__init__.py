"""Tests of clinfra's proxy."""
