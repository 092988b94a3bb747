"""Tests of clinfra's web."""
