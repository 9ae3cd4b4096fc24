"""What to ask: the contextual stream, or the token itself, which then has one address in all contexts."""

from experiments.claims.verdicts import Results, Verdict, judge_better
from experiments.suites.suite import BIASED, LEARNED, LOSS_FREE, TOKEN, UNSCORED, Suite, control, tiles

OTHER_HASHES = ('hash_balanced', 'hash_redrawn', 'hash_previous')


def _at(count: int, variants: dict) -> dict:
  return {f'{count}_{name}': {**tiles(count, 1), **settings} for name, settings in variants.items()}


_FEW = {
  'stream': {},
  'stream_unscored': UNSCORED,
  'token': TOKEN,
  'hash': {**control('hash'), **UNSCORED},
  'token_unscored': {**TOKEN, **UNSCORED},
  'learned': LEARNED,
  'learned_token': {**LEARNED, **TOKEN},
  'random_keys': control('random_keys'),
  'random_keys_token': {**control('random_keys'), **TOKEN},
}
_MANY = {
  **_FEW,
  'token_biased': {**TOKEN, **BIASED},
  'token_unscored_biased': {**TOKEN, **UNSCORED, **LOSS_FREE},
  **{name: {**control(name), **UNSCORED} for name in OTHER_HASHES},
  'token_kept': {**TOKEN, **control('kept_address'), **UNSCORED},
}
_TOP_K = {
  f'{count}_top_{count // 4}_{name}': {**tiles(count, count // 4), **settings}
  for count in (16, 64)
  for name, settings in (('stream', {}), ('token', TOKEN))
}


# What a variant is held against, of as many tiles, where that is not `stream`: only one thing differs in each pair.
_OTHERS = {
  'learned_token': 'learned',
  'random_keys_token': 'random_keys',
  'token_unscored': 'hash',
  'hash': 'stream_unscored',
  'hash_balanced': 'hash',
  'hash_redrawn': 'hash',
  'hash_previous': 'hash',
  'token_kept': 'hash',
}


def _baselines() -> dict[str, str | None]:
  of_top_k = {name: name.replace('token', 'stream') for name in _TOP_K if name.endswith('token')}
  return (
    {f'{count}_stream': None for count in (4, 16, 64)}
    | of_top_k
    | {
      f'{count}_{name}': f'{count}_{_OTHERS.get(name, "stream")}'
      for count, variants in ((16, _MANY), (4, _FEW), (64, _MANY))
      for name in variants
      if name != 'stream'
    }
  )


def judge_claims(results: Results) -> list[Verdict]:
  pairs = (
    ('16_token', '16_stream', 'of 16 tiles, primary: signatures find them better by token than by stream'),
    ('16_token_unscored', '16_hash', 'of 16 tiles, primary: signatures by token better than a hash of the token'),
    ('16_token_kept', '16_hash', 'of 16 tiles, signatures that are read early, dealt and kept better than a hash'),
    ('16_token_kept', '16_hash_balanced', 'of 16 tiles, the same better than a hash that is dealt'),
    ('16_token', '16_random_keys_token', 'of 16 tiles, by token: signatures better than keys at random'),
    ('16_token', '16_learned_token', 'of 16 tiles, by token: signatures better than a learned gate'),
    ('16_hash', '16_hash_redrawn', 'of 16 tiles, a hash that stays better than one that is redrawn'),
    ('16_hash', '16_hash_previous', 'of 16 tiles, a hash of the token better than one of the token before'),
    ('16_token', '4_stream', 'one of 16 tiles by token better than one of 4 by stream, with a quarter of its tile'),
    ('64_token_biased', '64_stream', 'of 64 tiles, signatures find them better by token, with biases, than by stream'),
  )
  return judge_better(results, pairs)


SUITE = Suite(
  'Address by token',
  'Signatures score the contextual stream, or the token by its own embedding, in every layer. What does a tile gain '
  'when it stays with its tokens, and does reading find better tiles for them than a hash, a gate or keys at random?',
  {**_at(16, _MANY), **_at(4, _FEW), **_at(64, _MANY), **_TOP_K},
  ('specialisation',),
  against=_baselines(),
  verdicts=judge_claims,
)
