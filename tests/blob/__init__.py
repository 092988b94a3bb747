"""Tests of clinfra's blob."""
