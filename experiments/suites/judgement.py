"""Judge a whole suite: its own verdicts, and the difference of every variant to its baseline."""

from typing import Any

from experiments import suites
from experiments.claims import estimates
from experiments.claims.verdicts import FIELDS, NO_CLAIM, Results, Verdict, correct, gap_in_nats, judge
from trix_jax.errors import InputError

OTHER_MACHINE = 'trained on different machines, whose rounding changes losses too, by more than the interval knows'


def judge_suite(name: str, results: Results) -> list[Verdict]:
  """Return the verdicts of a suite and the differences of all variants to their baselines, corrected.

  Raises:
    InputError: when a user's verdicts raise, or are invalid.
  """
  suite = suites.SUITES[name]
  found = [] if suite.verdicts is None else _judge_own(suite, results) if suite.file else suite.verdicts(results)
  return correct(found + judge_differences(name, results))


def judge_differences(name: str, results: Results) -> list[Verdict]:
  """Compare every variant with its baseline in nats, and tell whether both were trained on the same machine."""
  pairs = _pairs(name)
  return [
    judge(
      claim,
      NO_CLAIM,
      gap.text(unit=' nats', sign=True),
      gap,
      0.0,
      '' if _same_machine(results, *pairs[claim]) else OTHER_MACHINE,
    )
    for claim, gap in gaps(name, results).items()
  ]


def gaps(name: str, results: Results) -> dict[str, estimates.Estimate]:
  """Return the loss of every variant minus that of its baseline, by a name that contains both."""
  return {
    claim: gap
    for claim, (variant, baseline) in _pairs(name).items()
    if (gap := gap_in_nats(results, variant, baseline))
  }


def _pairs(name: str) -> dict[str, tuple[str, str]]:
  """Return variants and their baselines, by the names of `gaps`."""
  suite = suites.SUITES[name]
  return {
    f'{variant} against {baseline}': (variant, baseline)
    for variant in suite.variants
    if (baseline := suite.baseline(variant))
  }


def _same_machine(results: Results, variant: str, baseline: str) -> bool:
  """Return whether each shared seed was trained on one machine, as far as the runs have recorded it."""
  ours, theirs = (
    {result['seed']: _computes(result.get('machine', {})) for result in results if result['variant'] == name}
    for name in (variant, baseline)
  )
  return all(ours[seed] == theirs[seed] for seed in ours.keys() & theirs.keys())


def _computes(machine: dict[str, Any]) -> dict[str, Any]:
  """Return the part of a machine that decides rounding: the GPU for any host, or the whole record for a CPU.

  The record may lack the CPU's family.
  """
  return {name: machine[name] for name in ('backend', 'device', 'devices')} if 'device' in machine else machine


def _judge_own(suite: suites.Suite, results: Results) -> list[Verdict]:
  """Compute and check a user's verdicts, which may raise or return anything."""
  advice = 'mend it and run the same command again; what was measured is kept'
  assert suite.verdicts is not None
  try:
    found = list(suite.verdicts(results))
  except Exception as error:
    raise InputError(
      f'the verdicts of {suite.file} failed at {suites.describe_error(error, suite.file)}; {advice}'
    ) from error
  for verdict in found:
    if (
      not isinstance(verdict, dict)
      or verdict.keys() != FIELDS.keys()
      or not all(isinstance(verdict[name], kinds) for name, kinds in FIELDS.items())
    ):
      raise InputError(
        f'the verdicts of {suite.file} have {verdict!r}, which verdicts.make_verdict does not make; {advice}'
      )
  return found


def table(name: str, results: Results) -> str:
  """Write losses of all variants, then the verdicts, as text."""
  lines = ['', f'{name}: {"variant":<22}{"seeds":>6}{"loss":>9}{"std":>9}']
  for variant in suites.SUITES[name].variants:
    if losses := list(estimates.losses(results, variant).values()):
      loss = estimates.estimate(losses)
      lines.append(
        f'{"":<{len(name) + 2}}{variant:<22}{loss.seeds:6d}{loss.mean:9.4f}'
        + (f'{loss.std:9.4f}' if loss.seeds > 1 else f'{"-":>9}')
      )
  verdicts = judge_suite(name, results)
  return '\n'.join(lines + [f'  {verdict["verdict"]:<15}{verdict["claim"]}: {verdict["ours"]}' for verdict in verdicts])
