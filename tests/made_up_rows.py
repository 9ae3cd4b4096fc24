"""Results of suites that nobody measured, for tests of what is made of them."""

from experiments import suites
from experiments.suites import edits, graft
from trix_jax.runs import workdirs


def rows_of(suite, losses, **extra):
  """Rows of variants with these losses, with what reports and verdicts look at."""
  counts = [[[9, 1], [1, 9], [0, 0], [5, 5], [0, 0]]] * 2
  layer = {'counts': counts, 'information': [0.4, 0.3], 'null': [{'mean': 0.01, 'most': 0.05}] * 2}
  return [
    {
      'variant': variant,
      'seed': seed,
      'loss': loss,
      'dead_tiles': [0, 0],
      'tile_load': [[0.6, 0.4]] * 2,
      'tokens': 4_000_000 * (1 + list(suites.SUITES[suite].variants).index(variant)),
      'tokens_of_run': 4_000_000,
      'routing_state': 0,
      'commit': 'c',
      'digest': f'{variant}-{seed}',
      'measures': list(suites.SUITES[suite].measures),
      'parameters': {'total': 100, 'routing': 0, 'active_per_token': 50},
      'settings': {
        'model.d_model': 128,
        'model.dropout': 0.0,
        'training.steps': 10,
        'training.batch_size': 16,
        'seed': seed,
      },
      'machine': {'processor': 'a', 'cores': 2, 'backend': 'cpu', 'devices': 2},
      'versions': workdirs.read_versions(),
      'curves': {
        'validation_loss': [[5, loss + 1], [10, loss]],
        'train_loss': [[5, loss], [10, loss]],
        'diversity': [[5, [0.5, 0.5]], [10, [0.4, 0.2]]],
        'tile_load': [[5, [[0.5, 0.5]] * 2], [10, [[0.6, 0.4]] * 2]],
      },
      'specialisation': layer,
      'patterns': {**layer, 'counts': [[[1, 2]] * 6] * 2, 'favourite': [[0, 1, 2, 3, 4, 5], [0] * 6]},
      'routings': {'dense': loss, 'emergent': loss + 2, 'random': loss + 3, 'first': loss + 2.5},
      'fitted_gate': loss,
      'passage': {'text': 'a<b&\nc', 'tiles': [[0, 0, 1, 1, 0, 1], [1] * 6]},
      'signatures': [[[1, -1], [0, 2]]] * 2,
      'carved': carved_rows(loss),
      'best_tiles': best_tiles_rows(loss),
      'readings': READINGS,
      'stand_ins': stand_ins_rows(loss),
      'edited': edited_rows(loss),
      'grafted': grafted_rows(loss) if 'donor' in variant else {},
      'stability': [{'from': 5, 'to': 10, 'changed': [0.05, 0.03]}],
      **extra,
    }
    for variant, of in losses.items()
    for seed, loss in enumerate(of)
  ]


def carved_rows(loss, lost=0.02):
  """A dense model carved in two sizes and by two routes, which lose as much as is said."""
  row = {'tiles': 4, 'kept': 4, 'route': 'dense', 'partition': 'none', 'loss': loss, 'routing_products': 0}
  return [
    {**row, 'products': 100},
    *(
      {
        **row,
        'tiles': tiles,
        'kept': tiles // 4,
        'route': route,
        'partition': 'rows',
        'loss': loss + of,
        'products': 25,
      }
      for tiles, route, of in ((128, 'votes', lost), (128, 'fitted_gate', lost + loss / 100), (4, 'votes', 0.4))
    ),
  ]


def best_tiles_rows(loss, gain=0.4, fitted=0.0):
  """Layers whose oracle gains as much as is said, a quarter of it beyond luck, and whose fitted gate gains so much."""
  way = {'loss': loss, 'together': loss, 'best': loss / 5, 'best_two': loss / 4}
  ways = {'routed': way, 'fitted': {**way, 'loss': loss - fitted}, 'by_character': way, 'uniform': way}
  row = {'routed': loss, 'oracle': loss - gain, 'borrowed': loss - 0.75 * gain, 'own_gate_oracle': loss, 'ways': ways}
  return [{'layer': layer, **row} for layer in (0, 1)]


_TILES = {
  'apart': [0.1, 0.2, 0.3, 0.4],
  'agreement': [1.0, 1.3, 1.2, 1.1],
  'magnitude': [1.0, 1.0, 1.0, 1.0],
  'load': [0.4, 0.3, 0.2, 0.1],
  'margin': [0.1, 0.2, 0.4, 0.3],
  'removed': [0.01, 0.02, 0.03, 0.05],
  'silent': [0.01, 0.02, 0.03, 0.05],
}
# Signatures tell what each tile is worth, and loads tell the contrary. The first layer is worth most.
READINGS = {
  'layers': [
    {'agreement': 1.5 - layer, 'diversity': 0.5, 'codes': 0.6, 'magnitude': 1.0, 'depth': layer, 'silent': 0.5 - layer}
    for layer in (0.0, 0.1, 0.2)
  ],
  'tiles': [_TILES, _TILES],
  'difficulty': {'margin': [0.1, 0.2], 'mean_margin': 0.2, 'rarity': -0.3, 'by_character': 0.4, 'entropy': 0.7},
}


def stand_ins_rows(loss, matched=0.3):
  """Layers that lose 0.2 when silent, and as much as is said, or less behind rotations, with tiles of another model.

  Those that serve the same tokens lose 0.05 more.
  """
  pair = {'matched': matched, 'others': loss / 4, 'best': 0.1, 'matched_is_best': 0.5, 'likeness': 0.1}
  names = ('plain_signatures', 'aligned_signatures', 'aligned_usage', 'plain_usage')
  pairs = {
    name: {**pair, 'matched': matched - 0.2 * name.startswith('aligned') + 0.05 * name.endswith('usage')}
    for name in names
  }
  return [
    {'layer': layer, 'routed': loss, 'silent': 0.2, 'own': 0.4, 'any_own': 0.5, 'pairs': pairs} for layer in (0, 1)
  ]


def edited_rows(loss, stale=0.05, near=('prune', 'merge')):
  """An edited model that loses as much more by stale keys than by re-read ones as is said, or nothing where near."""
  more = {'reread': 0.1, 'refitted': 0.07, 'stale_row': 0.1, 'stale_read': 0.1}
  rows = [
    {'edit': edit, 'key': key, 'loss': loss + of + (stale if key.startswith('stale') and edit not in near else 0.0)}
    for edit in edits.PRIMARY
    for key, of in more.items()
  ]
  others = {'prune_by_magnitude': 0.12 + loss / 100, 'prune_by_activation': 0.08, 'drop_one_of_the_pair': 0.2}
  return rows + [{'edit': edit, 'key': 'reread', 'loss': loss + of} for edit, of in others.items()]


def grafted_rows(loss, **of_keys):
  """A donor of this loss on its text, 3.0 before, grafted by every key with R = 0.8 and F = 0.005 or as is said."""
  ungrafted, itself = {'donor': 3.0, 'host': 1.5}, {'donor': loss, 'host': 4.0}

  def row(key, scores):
    R, F = of_keys.get(f'{key}_{scores}', of_keys.get(key, (0.8, 0.005)))
    losses = {'donor': 3.0 - R * (3.0 - loss), 'host': 1.5 + F}
    return {'key': key, 'scores': scores, **losses, 'share_donor': 0.5, 'share_host': 0.1, 'R': R, 'F': F}

  rows = [row(key, scores) for key in graft.KEYS for scores in graft.SCORES]
  passage = {'text': 'a<b&\nc', 'tiles': [[0, 0, 1, 1, 0, 1], [1] * 6]}
  return {'ungrafted': ungrafted, 'itself': itself, 'rows': rows, 'passage': passage}
