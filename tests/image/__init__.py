"""Tests of clinfra's image."""
