"""What else can be read: stand-ins for tiles, the layers and tiles that matter, and hard characters."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.stats

from experiments.claims import estimates
from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, judge
from experiments.suites.suite import Suite, scaled_steps, tiles

MANY = tiles(16, 1)
OTHER_SEED = {'seed': 100}
BRANCH = {**MANY, 'training.start_from': '{trunk}', **scaled_steps(0.75)}

# The rank correlation of what was read in a run with the loss that it should predict, from the run's results.
Reading = Callable[[dict[str, Any]], float]


def _of_tiles(name: str) -> Reading:
  """Correlate a reading of tiles with what their removal costs, mean over layers."""
  return lambda result: float(np.mean([rank(of[name], of['removed']) for of in result['readings']['tiles']]))


def _of_layers(name: str, sign: int = 1) -> Reading:
  """Correlate a reading of layers with what their silence costs."""

  def correlate(result):
    layers = result['readings']['layers']
    return rank([sign * of[name] for of in layers], [of['silent'] for of in layers])

  return correlate


def _of_characters(name: str) -> Reading:
  return lambda result: float(result['readings']['difficulty'][name])


def rank(read: list[float], lost: list[float]) -> float:
  """Return Spearman's correlation, 0 where either is constant."""
  if len(set(read)) < 2 or len(set(lost)) < 2:
    return 0.0
  return float(scipy.stats.spearmanr(read, lost).statistic)


# For each question: the variant, what is read, and the cheapest other ways to tell.
READINGS: dict[str, tuple[str, dict[str, Reading], dict[str, Reading]]] = {
  'which of 16 tiles costs most when removed': (
    'emergent',
    {
      'distance of its signature to the nearest': _of_tiles('apart'),
      'agreement of its units': _of_tiles('agreement'),
      'sum of its margins on text': _of_tiles('margin'),
    },
    {'load': _of_tiles('load'), 'size of weights': _of_tiles('magnitude')},
  ),
  'which of 8 layers costs most when silent': (
    'deep',
    {'agreement of units': _of_layers('agreement'), 'diversity of signatures': _of_layers('diversity')},
    {'earlier layers': _of_layers('depth', -1), 'size of weights': _of_layers('magnitude')},
  ),
  'which character is hard to predict': (
    'emergent',
    {'small margins of routing': _of_characters('mean_margin')},
    {
      'mean loss after the same character': _of_characters('by_character'),
      'rare characters': _of_characters('rarity'),
      'entropy of the prediction': _of_characters('entropy'),
    },
  ),
}


def correlations(results: Results) -> dict[str, dict[str, estimates.Estimate]]:
  """Return by question the rank correlation of every reading and baseline with the loss."""
  found: dict[str, dict[str, estimates.Estimate]] = {}
  for question, (variant, readings, baselines) in READINGS.items():
    for name, value in {**readings, **baselines}.items():
      if by_seed := values(results, variant, value):
        found.setdefault(question, {})[name] = estimates.estimate(list(by_seed.values()))
  return found


def values(results: Results, variant: str, value: Reading) -> dict[int, float]:
  """Return by seed a figure of a variant's readings."""
  return {of['seed']: value(of) for of in results if of['variant'] == variant and 'readings' in of}


def of_pair(way: str, kind: str) -> Callable[[Mapping[str, Any]], float]:
  """Return a function that takes a figure of one way to match and stand in from the row of a layer."""
  return lambda row: row['pairs'][way][kind]


def lost(results: Results, variant: str, value: Callable[[Mapping[str, Any]], float]) -> dict[int, float]:
  """Return by seed a figure of a variant's stand-ins, mean over layers."""
  return {
    of['seed']: float(np.mean([value(layer) for layer in of['stand_ins']]))
    for of in results
    if of['variant'] == variant and of.get('stand_ins')
  }


def judge_claims(results: Results) -> list[Verdict]:
  return [*_judge_stand_ins(results), *_judge_readings(results), *_judge_pruning(results)]


# Models that share a basis, or not, and how tiles are matched and stand in.
PAIRS = {
  'emergent': 'of an independent model',
  'branch': 'of a model with the same first quarter of training',
}
WAYS = {
  'plain_signatures': 'as it is',
  'aligned_signatures': 'behind rotations',
}


def _judge_stand_ins(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  for variant, whose in PAIRS.items():
    for way, how in WAYS.items():
      matched = lost(results, variant, of_pair(way, 'matched'))
      others = lost(results, variant, of_pair(way, 'others'))
      silent = lost(results, variant, lambda row: row['silent'])
      used = lost(results, variant, of_pair(way.replace('signatures', 'usage'), 'matched'))
      for other, by_seed in (
        ('a tile that is not matched', others),
        ('no tile', silent),
        ('one that serves the same tokens', used),
      ):
        if gap := estimates.gap(matched, by_seed):
          primary = 'primary: ' if (variant, way, by_seed) == ('emergent', 'plain_signatures', others) else ''
          claim = f'{primary}a tile {whose}, {how}, loses less than {other} where signatures match them'
          loses = estimates.estimate(list(matched.values()))
          text = f'{gap.text(unit=" nats", sign=True)}; it loses {loses.text()}'
          found.append(judge(claim, NOT_ASKED, text, gap, 0.0))
  return found


def _judge_readings(results: Results) -> list[Verdict]:
  """Judge every reading of a question against every other way to tell."""
  found: list[Verdict] = []
  for question, (variant, readings, baselines) in READINGS.items():
    for (name, reading), (other, baseline) in itertools.product(readings.items(), baselines.items()):
      read, held = values(results, variant, reading), values(results, variant, baseline)
      if gap := estimates.gap(read, held):
        ours, theirs = (estimates.estimate(list(of.values())) for of in (read, held))
        text = f'{ours.text(2)} against {theirs.text(2)}, {gap.text(2, sign=True)}'
        claim = f'{question}: {name} tells better than {other}, in rank correlation'
        found.append(judge(claim, NOT_ASKED, text, gap, 0.0, opposite=True))
  return found


def removal(result: dict[str, Any], name: str | None) -> float:
  """Return what it costs to remove the tile with the least of a reading, or any tile for None; mean over layers."""
  return float(
    np.mean(
      [
        np.mean(of['removed']) if name is None else of['removed'][int(np.argmin(of[name]))]
        for of in result['readings']['tiles']
      ]
    )
  )


def _judge_pruning(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  chosen = {'apart': 'whose signature is nearest to another one', 'margin': 'with the least sum of margins'}
  others = {'load': 'the one with the least load', 'magnitude': 'the one with the smallest weights', None: 'any one'}
  for (name, whose), (other, words) in itertools.product(chosen.items(), others.items()):
    ours, theirs = (values(results, 'emergent', functools.partial(removal, name=of)) for of in (name, other))
    if gap := estimates.gap(ours, theirs):
      claim = f'to remove the tile {whose} costs less than {words}'
      found.append(judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, 0.0))
  return found


SUITE = Suite(
  'Transfer and readings',
  'Can a tile stand in for a tile of another model that signatures match with it? And what do signatures, codes and '
  'margins tell of layers, tiles and characters, against the cheapest other way to tell it?',
  {
    'emergent': MANY,
    'twin': {**MANY, **OTHER_SEED},
    'deep': {'model.layers': 8},
    'trunk': {**MANY, **scaled_steps(0.25)},
    'branch': BRANCH,
    'twin_branch': {**BRANCH, **OTHER_SEED},
  },
  ('readings', 'stand_ins'),
  against=dict.fromkeys(('twin', 'deep', 'trunk', 'branch', 'twin_branch')),
  partners={'emergent': 'twin', 'branch': 'twin_branch'},
  verdicts=judge_claims,
)
