"""Intervals and p-values are those of the textbook, and differences are paired."""

import math

import pytest

from experiments.claims import estimates


def test_intervals_are_those_of_student():
  # By hand for 1, 2, 3: the standard deviation is 1, and t of two degrees of freedom at 97.5 % is 4.3027.
  of = estimates.estimate([1.0, 2.0, 3.0])
  assert (of.mean, of.std, of.seeds) == (2, 1, 3)
  assert of.half_width == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
  assert str(of) == '2.0000 ± 2.4841' and of.low == of.mean - of.half_width
  one = estimates.estimate([0.5])
  assert str(one) == '0.5000 (one seed)' and math.isinf(one.half_width)
  assert one.text(1, ' %', 100, sign=True) == '+50.0 % (one seed)'
  with pytest.raises(ValueError, match='no values'):
    estimates.estimate([])


def test_p_values_are_those_of_student():
  of = estimates.estimate([1.0, 2.0, 3.0])
  # In closed form for two degrees of freedom: 1 - t / sqrt(t^2 + 2), with t = 2 sqrt(3) to 0.
  assert of.p_value() == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)
  assert of.p_value(2.0) == 1
  assert of.p_value(of.high) == pytest.approx(1 - estimates.CONFIDENCE, rel=1e-9)
  assert of.p_value(of.high + 0.01) < 1 - estimates.CONFIDENCE < of.p_value(of.high - 0.01)
  assert estimates.estimate([1.0, 2.0]).p_value() is None and estimates.estimate([1.0]).p_value() is None
  same = estimates.estimate([0.5, 0.5, 0.5])  # No warning either.
  assert (same.half_width, same.p_value(0.5), same.p_value(0.25)) == (0, 1, 0)


def test_p_values_are_corrected_for_their_number():
  # By hand: sorted 0.005, 0.01, 0.03, 0.04, each times 4 by its place, and none above the next.
  got = estimates.adjusted([0.01, None, 0.04, 0.03, 0.005, None])
  assert [got[place] for place in (1, 5)] == [None, None]
  assert [got[place] for place in (0, 2, 3, 4)] == pytest.approx([0.02, 0.04, 0.04, 0.02])
  assert estimates.adjusted([None]) == [None] and estimates.adjusted([]) == []


def test_differences_are_paired_by_seed():
  rows = [
    {'variant': name, 'seed': seed, 'loss': loss}
    for name, of in (('a', {0: 1.0, 1: 2.0, 2: 9.0}), ('b', {0: 1.5, 1: 2.25}))
    for seed, loss in of.items()
  ]
  gap = estimates.gap(estimates.losses(rows, 'b'), estimates.losses(rows, 'a'))
  assert gap.mean == pytest.approx(0.375) and gap.seeds == 2
  assert estimates.gap(estimates.losses(rows, 'b'), {}) is None
