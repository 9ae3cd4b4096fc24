"""How good could a router be? Every tile is forced on every token, one layer at a time, and the best one is known."""

from collections.abc import Callable
from typing import Any

from experiments.claims import estimates
from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, judge
from experiments.suites.suite import LEARNED, TOKEN, UNSCORED, Suite, control, tiles

_WAYS = {
  'emergent': {},
  'learned': LEARNED,
  'random_keys': control('random_keys'),
  'hash': {**control('hash'), **UNSCORED},
  'token': TOKEN,
}
COUNTS = (16, 4)


def of_last_layer(results: Results, variant: str, value: Callable[[dict[str, Any]], float]) -> dict[int, float]:
  """Return by seed a figure of the last layer, where a token's tile reaches no loss but that of its own character."""
  return {
    result['seed']: value(result['best_tiles'][-1])
    for result in results
    if result['variant'] == variant and 'best_tiles' in result
  }


def share_best(row: dict[str, Any]) -> float:
  """Return the share of tokens whose routing takes the best tile."""
  share: float = row['ways']['routed']['best']
  return share


def judge_claims(results: Results) -> list[Verdict]:
  return [*_judge_shares(results), *_judge_room(results)]


def _judge_shares(results: Results) -> list[Verdict]:
  """Judge how often routings take the best tile."""
  found: list[Verdict] = []
  for count in COUNTS:
    ours = of_last_layer(results, f'{count}_emergent', share_best)
    for other, words in (('learned', 'a learned gate'), ('random_keys', 'keys drawn at random'), ('hash', 'a hash')):
      if more := estimates.gap(ours, of_last_layer(results, f'{count}_{other}', share_best)):
        primary = 'primary: ' if (count, other) == (16, 'learned') else ''
        claim = f'{primary}of {count} tiles, signatures take the best one of the last layer more often than {words}'
        text = more.text(1, ' % of tokens', 100, sign=True)
        found.append(judge(claim, NOT_ASKED, text, more, 0.0, 'each in the model it was trained in', opposite=True))
  return found


def _judge_room(results: Results) -> list[Verdict]:
  """Judge what an oracle gains beyond luck, and what a fitted gate gains."""
  found: list[Verdict] = []
  for variant in SUITE.variants:
    oracle, borrowed, routed, fitted = (
      of_last_layer(results, variant, value)
      for value in (
        lambda row: row['oracle'],
        lambda row: row['borrowed'],
        lambda row: row['ways']['routed']['loss'],
        lambda row: row['ways']['fitted']['loss'],
      )
    )
    if less := estimates.gap(oracle, borrowed):
      claim = f'{variant}: an oracle of the last layer loses less than one with as many changes that fit other tokens'
      regret = estimates.gap(routed, oracle)
      assert regret is not None
      text = f'{less.text(unit=" nats", sign=True)}; {regret.text()} below what was routed'
      found.append(judge(claim, NOT_ASKED, text, less, 0.0, 'the difference is what tiles know and luck does not'))
    if gain := estimates.gap(fitted, routed):
      claim = f'{variant}: a gate fitted to the loss of every tile of the last layer loses less than its routing'
      found.append(judge(claim, NOT_ASKED, gain.text(unit=' nats', sign=True), gain, 0.0))
  return found


SUITE = Suite(
  'Oracle',
  'How good could a router be? In a trained model every tile of one layer is forced on every token. How often does '
  'each routing take the best tile? What does an oracle gain that knows the next character, and what a gate that is '
  'fitted to the losses?',
  {f'{count}_{name}': {**tiles(count, 1), **settings} for count in COUNTS for name, settings in _WAYS.items()},
  ('best_tiles',),
  against={f'{count}_{name}': None for count in COUNTS for name in _WAYS},  # Other suites compare their losses.
  verdicts=judge_claims,
)
