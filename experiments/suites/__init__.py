"""The suites, a file each: a question, the runs that answer it, and the verdicts that follow."""

from experiments.suites import (
  address,
  better,
  carve,
  carve_on,
  controls,
  data_efficiency,
  dense_twin,
  dropout,
  edits,
  four_routings,
  graft,
  hierarchy,
  many_tiles,
  option_a,
  option_b,
  oracle,
  recipe,
  remedies,
  second_text,
  shape,
  six_patterns,
  stability,
  tile_count,
  transfer,
  width,
)
from experiments.suites.suite import (
  BUDGETS,
  CONFIG,
  Settings,
  Suite,
  describe_error,
  settings_of,
  split_reference,
  variants_of,
)

__all__ = [
  'BUDGETS',
  'CONFIG',
  'SUITES',
  'Settings',
  'Suite',
  'describe_error',
  'settings_of',
  'split_reference',
  'variants_of',
]

# In the order of the report.
SUITES = {
  module.__name__.rpartition('.')[2]: module.SUITE
  for module in (
    four_routings,
    option_a,
    option_b,
    remedies,
    tile_count,
    hierarchy,
    six_patterns,
    controls,
    address,
    many_tiles,
    carve,
    carve_on,
    edits,
    graft,
    transfer,
    oracle,
    stability,
    data_efficiency,
    width,
    shape,
    dropout,
    dense_twin,
    recipe,
    better,
    second_text,
  )
}
