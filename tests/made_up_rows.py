"""Results of suites that nobody measured, for tests of what is made of them."""

from experiments import suites
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
