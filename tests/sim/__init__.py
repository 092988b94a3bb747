"""Whole clusters in one process, on a clock, from a seed."""
