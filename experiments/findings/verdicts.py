"""Compare the original's reported results with ours, and judge each claim.

A verdict judges the claim under the recipe of this repository. It does not judge the original's figure, which comes
from another recipe and more text. A verdict follows the 95 % interval over seeds. For a claim about a difference that
is the interval of the paired difference. An interval that allows both answers, or a single seed, gives "undecided".
Questions that the original did not ask hold or do not hold.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import suites
from experiments.findings import estimates
from trix_jax.errors import InputError
from trix_jax.evaluation import classes

Rows = Sequence[dict[str, Any]]

UNDECIDED, NOT_COMPARABLE = 'undecided', 'not comparable'
# Values of "reported" for our own questions, and for differences about which nobody made a claim.
NOT_ASKED, NO_CLAIM = 'not asked', '-'
# Names of a true and a false answer. OF_CLAIMS names those for all other values of "reported", the original's claims.
ANSWERS = {NOT_ASKED: ('holds', 'does not hold'), NO_CLAIM: ('better', 'worse')}
OF_CLAIMS = ('reproduced', 'refuted')
OTHER_BUDGET = 'another recipe and budget; see the differences'
OTHER_MACHINE = 'trained on different machines, whose rounding changes losses too, by more than the interval knows'


# Fields of the lines that `row` makes.
VERDICT = {
  'claim': (str,),
  'reported': (str,),
  'ours': (str,),
  'seeds': (int,),
  'verdict': (str,),
  'why': (str,),
  'p_value': (float, type(None)),
}


def row(
  claim: str,
  reported: str,
  ours: str,
  seeds: int,
  true: bool | None,
  why: str = '',
  verdict: str = UNDECIDED,
  p_value: float | None = None,
) -> dict[str, Any]:
  """Make a line of the table. Its verdict tells whether the claim is `true`, or is `verdict` for None or one seed."""
  if seeds > 1 and true is not None:
    verdict = ANSWERS.get(reported, OF_CLAIMS)[0 if true else 1]
  return {
    'claim': claim,
    'reported': reported,
    'ours': ours,
    'seeds': seeds,
    'verdict': verdict,
    'why': why,
    'p_value': p_value,
  }


def judged(
  claim: str,
  reported: str,
  ours: str,
  estimate: estimates.Estimate,
  limit: float,
  why: str = '',
  opposite: bool = False,
) -> dict[str, Any]:
  """Make a line for the claim that the true value is `below` a limit, with the p-value of its test."""
  true = below(estimate, limit, opposite)
  return row(claim, reported, ours, estimate.seeds, true, why, p_value=estimate.p_value(limit))


def corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Return the lines of a table with `adjusted_p`, their p-values corrected for the number of tests in the table."""
  adjusted = estimates.adjusted([of['p_value'] for of in rows])
  return [{**of, 'adjusted_p': p} for of, p in zip(rows, adjusted, strict=True)]


def contradicted(verdict: dict[str, Any]) -> bool:
  """Return whether an interval decides a line although the corrected test does not."""
  decided = verdict['verdict'] not in (UNDECIDED, NOT_COMPARABLE)
  return decided and verdict['adjusted_p'] is not None and verdict['adjusted_p'] >= 1 - estimates.CONFIDENCE


def below(estimate: estimates.Estimate, limit: float, opposite: bool = False) -> bool | None:
  """Return whether the true value is below a limit, or above it for `opposite`; None if the interval has the limit."""
  if estimate.low <= limit <= estimate.high:
    return None
  return (estimate.mean < limit) != opposite


def in_all(answers: Sequence[bool]) -> bool | None:
  """Return True if all seeds answer yes, False if none does, and None if some do."""
  return True if all(answers) else None if any(answers) else False


def _relative(rows: Rows, variant: str, baseline: str) -> estimates.Estimate | None:
  """Return perplexity of a variant divided by that of the baseline, minus 1, paired by seed."""
  return estimates.gap(estimates.losses(rows, variant), estimates.losses(rows, baseline), math.expm1)


def _percent(estimate: estimates.Estimate) -> str:
  return estimate.text(1, ' %', 100, sign=True)


def _with_nats(relative: estimates.Estimate, rows: Rows, variant: str, baseline: str) -> str:
  gap = estimates.gap(estimates.losses(rows, variant), estimates.losses(rows, baseline))
  return _percent(relative) + (f' ({gap.text(unit=" nats", sign=True)})' if gap else '')


def _of_rows(rows: Rows, variant: str, value: Callable[[dict[str, Any]], float]) -> estimates.Estimate | None:
  values = [value(row) for row in rows if row['variant'] == variant]
  return estimates.estimate(values) if values else None


def four_routings(rows: Rows) -> list[dict[str, Any]]:
  result = []
  if gap := _relative(rows, 'emergent', 'learned'):
    result.append(
      judged(
        'emergent within 5 % of a learned gate, in perplexity',
        '1.6753 against 1.6475 nats (+2.8 %)',
        _with_nats(gap, rows, 'emergent', 'learned'),
        gap,
        0.05,
        'the original ignored its gate in training',
      )
    )
  if gap := _relative(rows, 'emergent', 'random'):
    result.append(
      judged(
        'emergent better than random, in perplexity',
        '"better", with 1.6753 against 1.6749 nats',
        _with_nats(gap, rows, 'emergent', 'random'),
        gap,
        0.0,
        'drawn for every character at every step, in training too; Controls has a hash and keys that were drawn once',
      )
    )
  return result + _specialised(rows, 'emergent') + _counted(rows, 'emergent')


def _specialised(rows: Rows, variant: str, words: str = '') -> list[dict[str, Any]]:
  of = [row for row in rows if row['variant'] == variant and 'specialisation' in row]
  if not of:
    return []
  found = [float(np.mean(row['specialisation']['information'])) for row in of]
  above = [
    all(
      information > null['most']
      for information, null in zip(row['specialisation']['information'], row['specialisation']['null'], strict=True)
    )
    for row in of
  ]
  null = float(np.mean([[n['mean'] for n in row['specialisation']['null']] for row in of]))
  claim = f'{words}tiles specialise: mutual information of class and tile above chance'
  reported = 'letters to one tile 51 %, space 68 %, punctuation 60 %' if variant == 'dense' else 'tiles specialise'
  return [
    row(
      claim,
      reported,
      f'{estimates.estimate(found)}; chance {null:.5f}; to the tile that takes most of them {_favourites(of)}',
      len(of),
      in_all(above),
      'above every one of the random tables with the same totals, in every layer of every seed; whether '
      'reading signatures has to do with it is asked under Controls',
    )
  ]


def _favourites(rows: Rows) -> str:
  """Tell what share of each class's characters goes to its most used tile, mean over layers and seeds."""
  counts_SCT = np.array([counts_CT for row in rows for counts_CT in row['specialisation']['counts']], float)
  shares = {
    name: float(np.mean(counts_SCT[:, place].max(axis=1) / counts_SCT[:, place].sum(axis=1)))
    for place, name in enumerate(classes.CLASSES)
    if counts_SCT[:, place].sum(axis=1).all()
  }
  return ', '.join(f'{name} {100 * share:.0f} %' for name, share in shares.items())


def _counted(rows: Rows, variant: str, reported: str = '0', words: str = '') -> list[dict[str, Any]]:
  of = [row for row in rows if row['variant'] == variant]
  if not of:
    return []
  parameters, state = of[0]['parameters']['routing'], of[0]['routing_state']
  return [
    row(
      f'{words}no routing parameters',
      reported,
      f'{parameters:,} parameters, {state:,} numbers of state',
      len(of),
      not parameters,
    )
  ]


def option_a(rows: Rows) -> list[dict[str, Any]]:
  result = []
  reported = {'dense': 'PPL 5.04', 'emergent': 'PPL 81.35', 'random': 'PPL 85.59', 'first': 'PPL 70.84'}
  for routing, value in reported.items():
    if of := _of_rows(rows, 'dense', _loss_under(routing)):
      result.append(
        row(
          f'trained dense, evaluated {routing}',
          value,
          f'PPL {np.exp(of.mean):.2f} ({of} nats)',
          of.seeds,
          None,
          OTHER_BUDGET,
          NOT_COMPARABLE,
        )
      )
  if of := _of_rows(rows, 'dense', lambda row: row['routings']['emergent'] - row['routings']['dense']):
    more = _of_rows(rows, 'dense', lambda row: math.expm1(row['routings']['emergent'] - row['routings']['dense']))
    assert more is not None
    result.append(
      judged(
        'a densely trained model is worse by more than 5 % in perplexity when one tile of four is computed',
        '+2.78 nats, a collapse',
        f'{of.text(unit=" nats", sign=True)}, perplexity {_percent(more)}',
        more,
        0.05,
        opposite=True,
      )
    )
  if of := _of_rows(rows, 'dense', lambda row: row['routings']['emergent'] - row['routings']['random']):
    result.append(
      judged(
        'its signatures route better than chance all the same',
        '4.40 against 4.45 nats',
        of.text(unit=' nats', sign=True),
        of,
        0.0,
      )
    )
  if of := _of_rows(rows, 'dense', lambda row: row['fitted_gate'] - row['routings']['dense']):
    result.append(
      judged(
        'a gate fitted to the frozen model brings it within 0.05 nats of dense',
        NOT_ASKED,
        of.text(unit=' nats from dense', sign=True),
        of,
        0.05,
      )
    )
  return result + _specialised(rows, 'dense', 'trained dense, routed by signatures afterwards: ')


def _loss_under(routing: str) -> Callable[[dict[str, Any]], float]:
  return lambda row: row['routings'][routing]


def option_b(rows: Rows) -> list[dict[str, Any]]:
  result = []
  if gap := _relative(rows, 'sparse', 'dense'):
    result.append(judged('sparse within 2 % of dense, in perplexity', '5.14 against 5.04', _percent(gap), gap, 0.02))
  result += _falling(rows, 'sparse')
  if most := [
    max(float(np.max(load)) for _, load in row['curves']['tile_load']) for row in rows if row['variant'] == 'sparse'
  ]:
    result.append(
      row(
        'no tile has half of the load or more at any evaluation, on any seed: the busiest of all',
        NOT_ASKED,
        f'{", ".join(f"{100 * load:.1f} %" for load in most)} by seed',
        len(most),
        in_all([load < 0.5 for load in most]),
        'a fair share is 25 %; the original reported 33, 54, 38 and 47 % by epoch',
      )
    )
  if of := _of_rows(rows, 'sparse', lambda row: float(np.mean(row['curves']['diversity'][-1][1]))):
    course = _course(rows, 'sparse', 'diversity')
    result.append(
      judged(
        'signature diversity above 30 % at the end',
        '0.228, 0.039, 0.017, 0.009 by epoch',
        f'{_words(course, 3)}; at the end {of}',
        of,
        0.3,
        'the claim holds here; the figures that were reported contradict it',
        opposite=True,
      )
    )
  return result + _specialised(rows, 'sparse')


def _course(rows: Rows, variant: str, curve: str) -> list[tuple[float, list[float]]]:
  """Return four moments of training, as parts of the whole, with a curve's values there, one for each seed."""
  curves = [row['curves'][curve] for row in rows if row['variant'] == variant]
  last = curves[0][-1][0]
  places = dict.fromkeys(round(part * len(curves[0])) - 1 for part in (0.25, 0.5, 0.75, 1))
  return [
    (curves[0][place][0] / last, [float(np.mean(curve[place][1])) for curve in curves])
    for place in places
    if place >= 0
  ]


def _words(course: list[tuple[float, list[float]]], digits: int) -> str:
  return ', '.join(f'{np.mean(values):.{digits}f} ({100 * part:.0f} %)' for part, values in course)


def _falling(rows: Rows, variant: str) -> list[dict[str, Any]]:
  if not any(row['variant'] == variant for row in rows):
    return []
  course = _course(rows, variant, 'validation_loss')
  seeds = len(course[0][1])
  falls = [
    below(estimates.estimate([b - a for a, b in zip(before, after, strict=True)]), 0)
    for (_, before), (_, after) in itertools.pairwise(course)
  ]
  perplexities = [(part, [math.exp(loss) for loss in losses]) for part, losses in course]
  return [
    row(
      'validation perplexity falls to the end of training',
      '6.26, 5.48, 5.19, 5.14 by epoch',
      _words(perplexities, 2),
      seeds,
      False if False in falls else None if None in falls else True,
      'after these parts of training',
    )
  ]


def remedies(rows: Rows) -> list[dict[str, Any]]:
  result = []
  for variant in ('continued', 'distilled', 'continued_distilled', 'gradual', 'tile_dropout'):
    against = suites.SUITES['remedies'].baseline(variant)
    if against and (gap := _relative(rows, variant, against)):
      new = '; its own weights start at random, and the text of its teacher is not counted' * (variant == 'distilled')
      result.append(
        judged(
          f'{variant}: within 5 % of native sparse training, in perplexity',
          NOT_ASKED,
          _with_nats(gap, rows, variant, against),
          gap,
          0.05,
          f'held against {against}{new}',
        )
      )
  return result


def hierarchy(rows: Rows) -> list[dict[str, Any]]:
  result = []
  for variant, fair in (('16_top_1', 'equal parameters'), ('16_top_4', 'equal compute as well')):
    if gap := _relative(rows, variant, '4_tiles'):
      result.append(
        judged(
          f'16 tiles behind an index better than 4, {fair}, in perplexity',
          '16.67 against 19.26 (-13.4 %)',
          _percent(gap),
          gap,
          0.0,
          "the original's tiles were dead"
          + '; a gain of 13.4 % is outside of the interval' * (gap.seeds > 1 and gap.low > -0.134),
        )
      )
  if of := [row for row in rows if row['variant'] == '16_top_1']:
    dead = [sum(row['dead_tiles']) for row in of]
    result.append(
      row(
        '16 of 16 tiles in use',
        '16 of 16, whose output was 0',
        f'dead tiles of all layers, by seed: {", ".join(map(str, dead))}',
        len(of),
        in_all([not number for number in dead]),
        'here idle tiles become copies of busy ones now and then',
      )
    )
    train = estimates.estimate([float(np.mean([loss for _, loss in row['curves']['train_loss'][-4:]])) for row in of])
    loss = estimates.estimate([row['loss'] for row in of])
    result.append(
      row(
        'perplexity in training and validation',
        '6.68 and 14.91 (epoch 3)',
        f'{math.exp(train.mean):.2f} and {math.exp(loss.mean):.2f}',
        len(of),
        None,
        OTHER_BUDGET,
        NOT_COMPARABLE,
      )
    )
  result += _counted(rows, '16_top_4', NOT_ASKED, 'behind an index: ')
  for ablation in ('no_norm', 'no_output_scale', 'no_residual'):
    if gap := _relative(rows, ablation, '16_top_4'):
      result.append(
        judged(
          f'an indexed layer is worse by more than 1 % with {ablation}, in perplexity',
          NOT_ASKED,
          _percent(gap),
          gap,
          0.01,
          opposite=True,
        )
      )
  return result


def controls(rows: Rows) -> list[dict[str, Any]]:
  information = {
    variant: {
      row['seed']: float(np.mean(row['specialisation']['information']))
      for row in rows
      if row['variant'] == variant and 'specialisation' in row
    }
    for variant in ('emergent', 'random_keys', 'kmeans_keys')
  }
  result = []
  for control, words in (('random_keys', 'that were drawn at random'), ('kmeans_keys', 'that follow activations')):
    if more := estimates.gap(information['emergent'], information[control]):
      result.append(
        judged(
          f'tiles specialise more than behind keys {words}',
          NOT_ASKED,
          more.text(sign=True, unit=' normalised mutual information'),
          more,
          0.0,
          opposite=True,
        )
      )
  for control in ('random_keys', 'kmeans_keys', 'hash', 'no_router_gradient', 'no_signature_gradient'):
    variants = dict.fromkeys(('emergent', suites.SUITES['controls'].baseline(control)))
    for variant in filter(None, variants):
      if gap := _relative(rows, variant, control):
        result.append(
          judged(
            f'{variant} better than {control}, in perplexity',
            NOT_ASKED,
            _with_nats(gap, rows, variant, control),
            gap,
            0.0,
          )
        )
  return result


def six_patterns(rows: Rows) -> list[dict[str, Any]]:
  of = [row['patterns'] for row in rows if row['variant'] == '8_tiles' and 'patterns' in row]
  if not of:
    return []
  # Take the layer that separates the kinds best.
  layers = [int(np.argmax(found['information'])) for found in of]
  different = [len(set(found['favourite'][layer])) for found, layer in zip(of, layers, strict=True)]
  information = estimates.estimate([found['information'][layer] for found, layer in zip(of, layers, strict=True)])
  shares = [np.asarray(found['counts'][layer], float) for found, layer in zip(of, layers, strict=True)]
  least = min(float((counts_CT.max(axis=1) / counts_CT.sum(axis=1)).min()) for counts_CT in shares)
  ours = (
    f'{", ".join(map(str, different))} by seed, in the layer that tells patterns apart best; mutual information '
    f'there {information}'
  )
  return [
    row(
      'the most used tiles of six patterns are six different ones',
      '6',
      ours,
      len(of),
      in_all([number == 6 for number in different]),
      f'which is not to say that a pattern goes to one tile: {100 * least:.0f} % or more of each do',
    )
  ]


def stability(rows: Rows) -> list[dict[str, Any]]:
  result = []
  for variant, reported in (('emergent', '< 10 % from epoch to epoch'), ('learned', NOT_ASKED)):
    apart = [
      f'{pair["to"] - pair["from"]:,} steps apart'
      for row in rows
      if row['variant'] == variant
      for pair in row['stability'][-1:]
    ]
    why = f'{apart[0]}, at the end of the schedule' if apart else ''
    if of := _of_rows(rows, variant, lambda row: float(np.mean(row['stability'][-1]['changed']))):
      result.append(
        judged(
          f'{variant}: less than 10 % of tokens change tile between the last two checkpoints',
          reported,
          of.text(1, ' %', 100),
          of,
          0.1,
          why,
        )
      )
    if of := _of_rows(rows, variant, lambda row: max(float(np.mean(pair['changed'])) for pair in row['stability'])):
      result.append(
        judged(
          f'{variant}: the same between any two in a row',
          reported,
          of.text(1, ' % at worst', 100),
          of,
          0.1,
          'mean over layers',
        )
      )
  return result


def tile_count(rows: Rows) -> list[dict[str, Any]]:
  result = []
  for variant, words in (
    ('64_top_16', '16 of 64 tiles, the same compute'),
    ('16_top_1', 'one of 16, a quarter of it'),
    ('64_top_1', 'one of 64, a sixteenth of it'),
  ):
    if gap := _relative(rows, variant, '4_top_1'):
      result.append(
        judged(
          f'{words}: within 2 % of one of 4 tiles, in perplexity',
          NOT_ASKED,
          _with_nats(gap, rows, variant, '4_top_1'),
          gap,
          0.02,
        )
      )
  return result


def _sparse_to_dense(rows: Rows, sizes: Sequence[str], words: str, more: str) -> list[dict[str, Any]]:
  """Judge what sparsity costs at each SIZE, and whether it costs less at the last.

  The variants are named sparse_SIZE and dense_SIZE.
  """
  result, costs = [], {}
  for size in sizes:
    sparse, dense = (estimates.losses(rows, f'{name}_{size}') for name in ('sparse', 'dense'))
    if gap := _relative(rows, f'sparse_{size}', f'dense_{size}'):
      costs[size] = {seed: sparse[seed] - dense[seed] for seed in sparse.keys() & dense.keys()}
      result.append(
        judged(
          f'sparse within 2 % of dense with {size} {words}, in perplexity',
          NOT_ASKED,
          _with_nats(gap, rows, f'sparse_{size}', f'dense_{size}'),
          gap,
          0.02,
        )
      )
  if len(costs) > 1:
    least, *_, most = costs
    if change := estimates.gap(costs[most], costs[least]):
      result.append(
        judged(
          f'sparsity costs less with {more}',
          NOT_ASKED,
          change.text(unit=' nats', sign=True),
          change,
          0.0,
          f'what it costs at {most} less what it costs at {least}, on the same seed',
        )
      )
  return result


def width(rows: Rows) -> list[dict[str, Any]]:
  return _sparse_to_dense(rows, [str(width) for width in suites.WIDTHS], 'of d_model', 'more width')


def dropout(rows: Rows) -> list[dict[str, Any]]:
  return _sparse_to_dense(rows, [str(rate) for rate in suites.RATES], 'of dropout', 'less dropout')


def data_efficiency(rows: Rows) -> list[dict[str, Any]]:
  return _sparse_to_dense(rows, suites.PARTS, 'of the text', 'more text')


def gaps(name: str, rows: Rows) -> dict[str, estimates.Estimate]:
  """Return the loss of every variant minus that of its baseline, by a name that contains both."""
  result = {}
  for claim, (variant, baseline) in _pairs(name).items():
    if gap := estimates.gap(estimates.losses(rows, variant), estimates.losses(rows, baseline)):
      result[claim] = gap
  return result


def differences(name: str, rows: Rows) -> list[dict[str, Any]]:
  """Compare every variant with its baseline in nats, and tell whether both were trained on the same machine."""
  pairs = _pairs(name)
  return [
    judged(
      claim,
      NO_CLAIM,
      gap.text(unit=' nats', sign=True),
      gap,
      0.0,
      '' if _same_machine(rows, *pairs[claim]) else OTHER_MACHINE,
    )
    for claim, gap in gaps(name, rows).items()
  ]


def _pairs(name: str) -> dict[str, tuple[str, str]]:
  """Return variants and their baselines, by the names of `gaps`."""
  suite = suites.SUITES[name]
  return {
    f'{variant} against {baseline}': (variant, baseline)
    for variant in suite.variants
    if (baseline := suite.baseline(variant))
  }


def _same_machine(rows: Rows, variant: str, baseline: str) -> bool:
  """Return whether each shared seed was trained on one machine, as far as the runs have recorded it."""
  of, of_baseline = (
    {row['seed']: _computes(row.get('machine', {})) for row in rows if row['variant'] == name}
    for name in (variant, baseline)
  )
  return all(of[seed] == of_baseline[seed] for seed in of.keys() & of_baseline.keys())


def _computes(machine: dict[str, Any]) -> dict[str, Any]:
  """Return the part of a machine that decides rounding: the GPU for any host, or the whole record for a CPU.

  The record may lack the CPU's family.
  """
  return {name: machine[name] for name in ('backend', 'device', 'devices')} if 'device' in machine else machine


OF_SUITES: dict[str, Callable[[Rows], list[dict[str, Any]]]] = {
  'four_routings': four_routings,
  'option_a': option_a,
  'option_b': option_b,
  'remedies': remedies,
  'tile_count': tile_count,
  'hierarchy': hierarchy,
  'controls': controls,
  'six_patterns': six_patterns,
  'stability': stability,
  'data_efficiency': data_efficiency,
  'width': width,
  'dropout': dropout,
}


def of_suite(name: str, rows: Rows) -> list[dict[str, Any]]:
  """Return the verdicts of a suite and the differences of all variants to their baselines, `corrected`.

  Raises:
    InputError: when a user's verdicts raise, or are invalid.
  """
  suite = suites.SUITES[name]
  if suite.verdicts:
    found = _own(suite.verdicts, rows, suite.file)
  else:
    found = OF_SUITES[name](rows) if name in OF_SUITES else []
  return corrected(found + differences(name, rows))


def _own(verdicts: Callable[[Rows], list[dict[str, Any]]], rows: Rows, file: str) -> list[dict[str, Any]]:
  """Compute and check a user's verdicts, which may raise or return anything."""
  advice = 'mend it and run the same command again; what was measured is kept'
  try:
    found = list(verdicts(rows))
  except Exception as error:
    raise InputError(f'the verdicts of {file} failed at {suites.raised(error, file)}; {advice}') from error
  for verdict in found:
    if (
      not isinstance(verdict, dict)
      or verdict.keys() != VERDICT.keys()
      or not all(isinstance(verdict[name], kinds) for name, kinds in VERDICT.items())
    ):
      raise InputError(f'the verdicts of {file} have {verdict!r}, which verdicts.row does not make; {advice}')
  return found


def table(name: str, rows: Rows) -> str:
  """Write losses of all variants, then the verdicts, as text."""
  lines = ['', f'{name}: {"variant":<22}{"seeds":>6}{"loss":>9}{"std":>9}']
  for variant in suites.SUITES[name].variants:
    if values := list(estimates.losses(rows, variant).values()):
      of = estimates.estimate(values)
      lines.append(
        f'{"":<{len(name) + 2}}{variant:<22}{of.seeds:6d}{of.mean:9.4f}'
        + (f'{of.std:9.4f}' if of.seeds > 1 else f'{"-":>9}')
      )
  return '\n'.join(lines + [f'  {v["verdict"]:<15}{v["claim"]}: {v["ours"]}' for v in of_suite(name, rows)])
