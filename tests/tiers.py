"""Which parameters of a test are fast ones."""

import pytest


def fast_first(values, fast=1):
  """Keep the first values in the fast tests, and leave the rest to `pytest -m slow`."""
  return [*values[:fast], *slow(*values[fast:])]


def slow(*values):
  """Leave values to `pytest -m slow`."""
  return [pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow) for value in values]
