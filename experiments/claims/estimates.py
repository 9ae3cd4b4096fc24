"""Means, spreads, intervals and t-tests over seeds; differences are paired by seed."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.stats

CONFIDENCE = 0.95
# A t-test of fewer seeds has no p-value here, because two seeds leave only one degree of freedom.
SEEDS_OF_TEST = 3


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds.

  Attributes:
    mean, std: of the values; std is NaN for one seed.
    half_width: half of the interval that holds the true mean with probability `CONFIDENCE`, by Student's t. It is
      infinite for one seed.
    seeds: number of seeds.
    values: one for each seed.
  """

  mean: float
  std: float
  half_width: float
  seeds: int
  values: tuple[float, ...] = dataclasses.field(repr=False)

  @property
  def low(self) -> float:
    return self.mean - self.half_width

  @property
  def high(self) -> float:
    return self.mean + self.half_width

  def text(self, digits: int = 4, unit: str = '', factor: float = 1.0, sign: bool = False) -> str:
    """Write mean ± half width, each times a factor, with a unit."""
    spread = f' ± {factor * self.half_width:.{digits}f}' if self.seeds > 1 else ''
    one = '' if self.seeds > 1 else ' (one seed)'
    return f'{factor * self.mean:{"+" if sign else ""}.{digits}f}{spread}{unit}{one}'

  def p_value(self, limit: float = 0.0) -> float | None:
    """Return the p-value of the two-sided t-test that the true mean is the limit.

    It is below 1 - `CONFIDENCE` where the interval excludes the limit, and None for fewer than `SEEDS_OF_TEST` seeds.
    """
    if self.seeds < SEEDS_OF_TEST:
      return None
    p = float(_t_test(self.values, limit).pvalue)
    return 1.0 if math.isnan(p) else p  # p is NaN where every value is the limit itself.

  def __str__(self) -> str:
    return self.text()


def estimate(values: Sequence[float]) -> Estimate:
  """Estimate the mean of some values. Raise ValueError when there are none."""
  if not values:
    raise ValueError('no values to estimate a mean from')
  mean, count = float(np.mean(values)), len(values)
  if count == 1:
    return Estimate(mean, math.nan, math.inf, 1, tuple(values))
  interval = _t_test(values).confidence_interval(CONFIDENCE)
  return Estimate(mean, float(np.std(values, ddof=1)), float(interval.high - interval.low) / 2, count, tuple(values))


def _t_test(values: Sequence[float], limit: float = 0.0):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', RuntimeWarning)  # SciPy warns when all values are the same, or nearly.
    return scipy.stats.ttest_1samp(values, limit)


def adjusted(p_values: Sequence[float | None]) -> list[float | None]:
  """Correct p-values for their number by Benjamini and Hochberg; None stays, and does not count."""
  corrected = iter(scipy.stats.false_discovery_control([p for p in p_values if p is not None]))
  return [None if p is None else float(next(corrected)) for p in p_values]


def losses(rows: Sequence[dict[str, Any]], variant: str) -> dict[int, float]:
  """Return the validation loss of a variant by seed."""
  return {row['seed']: row['loss'] for row in rows if row['variant'] == variant}


def gap(
  first: dict[int, float], second: dict[int, float], of_difference: Callable[[float], float] = float
) -> Estimate | None:
  """Estimate the first minus the second, or a function of that, on their shared seeds; None without any."""
  shared = sorted(first.keys() & second.keys())
  return estimate([of_difference(first[seed] - second[seed]) for seed in shared]) if shared else None
