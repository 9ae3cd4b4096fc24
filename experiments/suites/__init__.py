"""The suites and the runs that each compares."""

from experiments.suites.suite import (
  BUDGETS,
  CONFIG,
  PARTS,
  PATTERNS,
  RATES,
  SUITES,
  WIDTHS,
  Settings,
  Suite,
  raised,
  settings_of,
  variants_of,
)

__all__ = [
  'BUDGETS',
  'CONFIG',
  'PARTS',
  'PATTERNS',
  'RATES',
  'SUITES',
  'WIDTHS',
  'Settings',
  'Suite',
  'raised',
  'settings_of',
  'variants_of',
]
