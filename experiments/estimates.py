"""Means, spreads and intervals over seeds; differences are paired by seed."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds.

  Attributes:
    mean, std: of the values; std is NaN for one seed.
    half_width: of the interval that holds the true mean with probability `CONFIDENCE`, by Student's t; infinite for one
      seed.
    seeds: how many.
  """

  mean: float
  std: float
  half_width: float
  seeds: int

  @property
  def low(self) -> float:
    return self.mean - self.half_width

  @property
  def high(self) -> float:
    return self.mean + self.half_width

  def text(self, digits: int = 4, unit: str = '', factor: float = 1.0, sign: bool = False) -> str:
    """Mean ± half width, each times a factor, with a unit."""
    spread = f' ± {factor * self.half_width:.{digits}f}' if self.seeds > 1 else ''
    one = '' if self.seeds > 1 else ' (one seed)'
    return f'{factor * self.mean:{"+" if sign else ""}.{digits}f}{spread}{unit}{one}'

  def __str__(self) -> str:
    return self.text()


def estimate(values: Sequence[float]) -> Estimate:
  """ValueError for no values."""
  if not values:
    raise ValueError('no values to estimate a mean from')
  mean, count = float(np.mean(values)), len(values)
  if count == 1:
    return Estimate(mean, math.nan, math.inf, 1)
  std = float(np.std(values, ddof=1))
  t = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
  return Estimate(mean, std, t * std / math.sqrt(count), count)


def losses(rows: Sequence[dict[str, Any]], variant: str) -> dict[int, float]:
  """Validation loss of a variant by seed."""
  return {row['seed']: row['loss'] for row in rows if row['variant'] == variant}


def gap(
  first: dict[int, float], second: dict[int, float], of_difference: Callable[[float], float] = float
) -> Estimate | None:
  """Of the first less the second, or of a function of that, on the seeds that both have; None without any."""
  shared = sorted(first.keys() & second.keys())
  return estimate([of_difference(first[seed] - second[seed]) for seed in shared]) if shared else None
