"""Edit tiles and read their addresses again, against addresses from before the edit.

A *key* decides where tokens go in an edited model, and with which gate. Nothing is retrained. Four keys are compared:

- `reread`: the signatures of the edited tiles, in a model that was trained with emergent routing.
- `stale_read`: the signatures from before the edit, in the same model.
- `stale_row`: the columns of a learned gate from before the edit, in a model that was trained with one.
- `refitted`: a linear gate that is fitted to the training text after the edit. It starts from the re-read signatures,
  or from the stale columns in a model with a learned gate.

Each key is evaluated as a linear gate, so tiles and gates follow from it in the same way. The text is the validation
text. A model with a learned gate has a `reread` key too, which is reported and not counted.

An edit that changes the number of tiles needs stale keys for the new ones. Both halves of a split tile get that of
their former tile. A merged tile gets the mean of two. A tile that takes another's place gets that of the place.

The excess of a key is its loss less that of the refitted gate in the same model. The primary statistic is the excess of
the re-read key less that of a stale key, over these four edits:

- `prune` half of all units, and `merge` the two most alike tiles. What is left resembles what was there, so a stale key
  may be as good as the re-read one.
- `split` a tile, and `replace` a tile by one of another layer. No stale key knows the new tiles, so re-reading should
  win.

Two edits are those where re-reading can gain little, and two are those where it should gain much. A claim of two out of
four is therefore open. Two more edits have a known answer, so they are reported and not counted. `none` leaves every
stale key as good as the re-read one. `permute` moves tiles away from all stale keys.
"""

from experiments.claims import estimates
from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, below, judge, make_verdict
from experiments.suites.suite import LEARNED, Suite, tiles

PRIMARY = ('prune', 'merge', 'split', 'replace')
# A re-read key beats a stale one if its excess is less by more than this, in nats, in at least this many edits.
MARGIN, ENOUGH = 0.02, 2
STALE = {'stale_row': 'the stale learned row', 'stale_read': 'the stale read key'}
# Variants of a key's model, without the number of tiles.
TRAINED = {'reread': 'emergent', 'stale_read': 'emergent', 'stale_row': 'learned'}


def judge_claims(results: Results) -> list[Verdict]:
  found = _judge_primary(results)
  for count in ('', '64_'):
    words = 'of 64 tiles, ' if count else ''
    for edit in PRIMARY:
      for key, name in STALE.items():
        if gap := gain(results, edit, key, count):
          claim = f'{words}{edit}: re-reading beats {name} by at least {MARGIN} nats'
          found.append(judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, -MARGIN))
    for edit, others in (
      ('prune', ('prune_by_magnitude', 'prune_by_activation')),
      ('merge', ('drop_one_of_the_pair',)),
    ):
      for other in others:
        emergent = f'{count}emergent'
        if gap := estimates.gap(losses(results, emergent, edit, 'reread'), losses(results, emergent, other, 'reread')):
          claim = f'{words}{edit}: loses less than {other.replace("_", " ")}'
          found.append(judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, 0.0))
  return found


def _judge_primary(results: Results) -> list[Verdict]:
  gaps = {edit: [gain(results, edit, key) for key in STALE] for edit in PRIMARY}
  known = {edit: [gap for gap in of_edit if gap] for edit, of_edit in gaps.items()}
  if any(len(of_edit) < len(STALE) for of_edit in known.values()):
    return []
  answers = {edit: [below(gap, -MARGIN) for gap in of_edit] for edit, of_edit in known.items()}
  won = [edit for edit in PRIMARY if all(answers[edit])]
  lost = [edit for edit in PRIMARY if False in answers[edit]]
  true = True if len(won) >= ENOUGH else False if len(PRIMARY) - len(lost) < ENOUGH else None
  each = '; '.join(f'{edit} {" and ".join(gap.text(sign=True) for gap in of_edit)}' for edit, of_edit in known.items())
  return [
    make_verdict(
      f'primary: re-reading beats both stale keys by {MARGIN} nats or more in {ENOUGH} or more of {len(PRIMARY)} edits',
      NOT_ASKED,
      f'in {len(won)} of them: {each} nats',
      min(gap.seeds for of_edit in known.values() for gap in of_edit),
      true,
      'excess over a refitted gate of the re-read key, less that of the stale learned row and of the stale read key; '
      'the p-value is that of a partial conjunction',
      p_value=partial_conjunction([[_one_sided(gap) for gap in of_edit] for of_edit in known.values()]),
    )
  ]


def _one_sided(gap: estimates.Estimate) -> float | None:
  """Return the p-value of the claim's test, 1 for a gap on its wrong side."""
  return gap.p_value(-MARGIN) if gap.mean < -MARGIN or gap.p_value(-MARGIN) is None else 1.0


def partial_conjunction(p_values: list[list[float | None]]) -> float | None:
  """Return the p-value of the claim that all tests of an edit hold in at least `ENOUGH` edits; None with any missing.

  An edit has the largest p-value of its tests. Bonferroni's correction combines the edits (Benjamini and Heller, 2008).
  """
  known = [[p for p in of_edit if p is not None] for of_edit in p_values]
  if [len(of_edit) for of_edit in known] != [len(of_edit) for of_edit in p_values]:
    return None
  of_edits = sorted(max(of_edit) for of_edit in known)
  return min(1.0, (len(of_edits) - ENOUGH + 1) * of_edits[ENOUGH - 1])


def gain(results: Results, edit: str, stale: str, count: str = '') -> estimates.Estimate | None:
  """Estimate the excess of the re-read key less that of a stale one, paired by seed."""
  return estimates.gap(excess(results, edit, 'reread', count), excess(results, edit, stale, count))


def excess(results: Results, edit: str, key: str, count: str = '') -> dict[int, float]:
  """Return by seed the loss under a key less that under the refitted gate, in the model that has the key."""
  variant = f'{count}{TRAINED[key]}'
  own, refitted = (losses(results, variant, edit, name) for name in (key, 'refitted'))
  return {seed: own[seed] - refitted[seed] for seed in own.keys() & refitted.keys()}


def losses(results: Results, variant: str, edit: str, key: str) -> dict[int, float]:
  """Return by seed the loss of an edited model under a key."""
  return {
    result['seed']: row['loss']
    for result in results
    if result['variant'] == variant
    for row in result.get('edited', [])
    if (row['edit'], row['key']) == (edit, key)
  }


SUITE = Suite(
  'Edits',
  'Tiles of trained models are pruned, merged, split and replaced, and nothing is retrained. Does an address that is '
  'read again from the edited weights route better than one from before the edit, read or learned?',
  {
    'emergent': {},
    'learned': LEARNED,
    '64_emergent': tiles(64, 1),
    '64_learned': {**tiles(64, 1), **LEARNED},
  },
  ('edited',),
  against={'64_emergent': None, '64_learned': '64_emergent'},
  verdicts=judge_claims,
)
