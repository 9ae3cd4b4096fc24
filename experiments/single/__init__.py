"""Experiments that are a program of their own, outside of suites."""
