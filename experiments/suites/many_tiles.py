"""The same hidden units in more and smaller tiles, found by the stream, to see where reading wins."""

from experiments.claims.verdicts import Results, Verdict, judge_better
from experiments.suites.suite import LEARNED, Suite, control, tiles

COUNTS = (4, 16, 32, 64, 128)
OTHERS = {'learned': LEARNED, 'random_keys': control('random_keys')}
WORDS = {'emergent': 'signatures', 'learned': 'a learned gate', 'random_keys': 'keys drawn at random'}
# What finds the tiles of each variant, and how many there are.
FAMILIES: dict[str, tuple[str, float]] = {
  f'{count}_{name}': (words, count) for count in COUNTS for name, words in WORDS.items()
}


def judge_claims(results: Results) -> list[Verdict]:
  pairs = []
  for count in COUNTS:
    for other in OTHERS:
      primary = 'primary: ' if (count, other) == (64, 'learned') else ''
      claim = f'{primary}of {count} tiles, signatures better than {WORDS[other]}'
      pairs.append((f'{count}_emergent', f'{count}_{other}', claim))
  return judge_better(results, pairs)


SUITE = Suite(
  'Many tiles',
  'One tile of 4 to 128 with the same hidden units together, found by signatures, by a learned gate or by keys at '
  'random. Is reading worth more when tiles are many and small?',
  {
    f'{count}_{name}': {**tiles(count, 1), **settings}
    for count in COUNTS
    for name, settings in {'emergent': {}, **OTHERS}.items()
  },
  ('specialisation',),
  against={f'{count}_{name}': f'{count}_emergent' for count in COUNTS for name in OTHERS}
  | {f'{count}_emergent': '4_emergent' for count in COUNTS[1:]},
  verdicts=judge_claims,
)
