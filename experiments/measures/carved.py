"""Carve a dense model in many ways, and measure what each costs and loses: nothing is trained."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.measures import forced
from experiments.suites.carve import PRIMARY
from trix_jax.data import corpora
from trix_jax.editing import carving
from trix_jax.evaluation.evaluator import Evaluator
from trix_jax.nn import ffn, transformer, unit_routings
from trix_jax.nn.cost import count_products
from trix_jax.nn.model_config import ModelConfig
from trix_jax.runs import checkpoints

# (tiles, kept): a quarter of the units, of which four tiles are the original's Option A, and other parts of them.
QUARTERS = ((4, 1), (16, 4), (32, 8), (64, 16), PRIMARY, (256, 64))
OTHERS = ((64, 8), (128, 16), (128, 24), (128, 48), (128, 64), (256, 32), (256, 48), (256, 128), (512, 128))
# Ways to route and to cut that are compared with votes and with clusters of rows.
ROUTES = ('votes', 'energy', 'activity', 'remainder', 'fitted_gate', 'squared_gate', 'random_keys')
# Those that score as many keys as a layer has groups, for tiles so coarse that each has several.
OF_GROUPS = ('grouped_votes', 'witnesses', 'low_rank_energy')
PARTITIONS = ('contiguous', 'random', 'together')
# Numbers of tiles that are each token's own.
SHARES = tuple(f'share_{share}' for share in unit_routings.SHARES)
# Windows of the training text that a gate and a partition by data see.
WINDOWS, RIDGE = 96, 1.0


class Seen(NamedTuple):
  """What a layer saw on some of the training text: its inputs, and what its hidden units put out."""

  x_ND: np.ndarray
  active_NF: np.ndarray


def carve_in_many_ways(trained: checkpoints.Trained) -> list[dict[str, Any]]:
  """Return a row for each size and way: tiles, kept, route, partition, loss and products of a token and layer.

  Of tokens with numbers of tiles of their own, `kept` is the mean.
  """
  validation = trained.corpus().validation
  dense = trained.model.config
  seen = look_at_layers(trained)

  def row(tiles, kept, route, partition, params, model):
    found = Evaluator(model, trained.vocabulary, validation)(params, _first_state(model, trained))
    if route in SHARES:
      kept = float(np.mean(found['tiles_used']))
    routing = _count_routing(route, kept, model)
    return {
      'tiles': tiles,
      'kept': kept,
      'route': route,
      'partition': partition,
      'loss': found['loss'],
      'routing_products': routing,
      'products': routing + kept * model.ffn.hidden * 2 * model.d_model,
    }

  rows = [row(dense.ffn.tiles, dense.ffn.tiles, 'dense', 'none', trained.params, dense)]
  for tiles, kept, partition in _cuts():
    params, model = carving.carve(trained.params, dense, tiles, kept, _cut_by(partition, seen))
    for route in list_routes(tiles, kept, partition):
      rows.append(row(tiles, kept, route, partition, *_route_by(route, params, model, seen)))
      print(f'  {rows[-1]}', flush=True)
  return rows


def is_whole(rows: Sequence[Mapping[str, Any]]) -> bool:
  """Return whether rows have every size and way that `carve_in_many_ways` measures today."""
  wanted = {(*cut, route) for cut in _cuts() for route in list_routes(*cut) if route not in SHARES}
  found = {(row['tiles'], row['kept'], row['partition'], row['route']) for row in rows}
  return wanted <= found and set(SHARES) <= {row['route'] for row in rows}


def _count_routing(route: str, kept: float, model: ModelConfig) -> float:
  """Return the products of a routing."""
  # Products of all units, of which those of kept tiles are needed anyway.
  idle = (model.ffn.d_ff - kept * model.ffn.hidden) * model.d_model
  return {
    'energy': idle,
    'activity': idle,
    'remainder': 2 * idle + model.ffn.tiles**2 * model.d_model,  # It also compares every two tiles.
    'squared_gate': 2 * model.ffn.tiles * model.d_model,
    **dict.fromkeys(OF_GROUPS, unit_routings.GROUPS * model.d_model),
  }.get(route, count_products(model.ffn).routing)


def list_routes(tiles: int, kept: int, partition: str) -> tuple[str, ...]:
  """Return the ways to route that are measured with tiles of a size, cut in a way."""
  if partition != 'rows' or (tiles, kept) not in QUARTERS:
    return ('votes',)
  if tiles < unit_routings.GROUPS:
    return ROUTES + OF_GROUPS
  if (tiles, kept) == PRIMARY:
    return ROUTES + SHARES
  return tuple(route for route in ROUTES if route != 'remainder')  # It would compare too many tiles.


def _cuts() -> Iterator[tuple[int, int, str]]:
  yield from ((*size, 'rows') for size in (*QUARTERS, *OTHERS))
  yield from ((*PRIMARY, name) for name in PARTITIONS)


def look_at_layers(trained: checkpoints.Trained) -> list[Seen]:
  """Run the dense model over some windows of its training text."""
  config = trained.model.config
  windows = corpora.draw_batch(trained.corpus().train, config.context, WINDOWS, 0, 0)
  seen = []
  for layer in range(config.layers):
    x_ND = forced.look(trained, layer, windows, lambda at_work: at_work.x_ND)
    tiles = ffn.quantise_tiles(trained.params[f'layer_{layer}']['ffn'], config.ffn)
    seen.append(Seen(x_ND, np.asarray(_activity(x_ND, tiles, config)).reshape(len(x_ND), -1)))
  return seen


def _activity(x_ND, tiles, config):
  """Return what every hidden unit puts out, times the norm of its output, [N, T, H]."""
  unit_NTH, norm_TH = unit_routings.weigh_units(ffn.quantise_asked(x_ND, config.ffn), tiles)
  return ffn.ACTIVATIONS[config.ffn.activation](unit_NTH) * norm_TH


def _cut_by(name: str, seen: list[Seen]) -> carving.Partition:
  def in_their_order(units, tiles, _):
    return jnp.arange(len(units.tile_F)).reshape(tiles, -1)

  def at_random(units, tiles, layer):
    return jax.random.permutation(jax.random.key(layer), len(units.tile_F)).reshape(tiles, -1)

  def that_are_active_together(units, tiles, layer):
    return carving.gather(jnp.asarray(seen[layer].active_NF.T[:, ::8]), tiles, layer)

  return {
    'rows': cluster_units_in_groups,
    'contiguous': in_their_order,
    'random': at_random,
    'together': that_are_active_together,
  }[name]


def cluster_units_in_groups(units: carving.Units, tiles: int, layer: int) -> jax.Array:
  """Gather units with similar rows into tiles, and so into groups within coarse tiles; see `GROUPS`."""
  member_TH = np.array(carving.cluster_units(units, tiles, layer))
  if tiles < unit_routings.GROUPS:
    for member_H in member_TH:
      member_H[:] = member_H[carving.gather(units.up_FD[member_H], unit_routings.GROUPS // tiles, layer).reshape(-1)]
  return jnp.asarray(member_TH)


def _route_by(route: str, params: Any, model: ModelConfig, seen: list[Seen]) -> tuple[Any, ModelConfig]:
  """Return parameters and config of the carved model under another way to choose its tiles."""
  if route == 'votes':
    return params, dataclasses.replace(model, control='masked')
  if route not in ('fitted_gate', 'squared_gate'):
    return params, dataclasses.replace(model, control=route)
  squared, params = route == 'squared_gate', dict(params)
  for layer, of_layer in enumerate(seen):
    name = f'layer_{layer}'
    tiles = ffn.quantise_tiles(params[name]['ffn'], model.ffn)
    target_NT = np.concatenate(
      [_activity(part_ND, tiles, model).sum(axis=-1) for part_ND in np.array_split(of_layer.x_ND, 8)]
    )
    x_NE = np.asarray(unit_routings.add_squares(jnp.asarray(of_layer.x_ND))) if squared else of_layer.x_ND
    gate = {'squared_gate' if squared else 'gate': fit_gate(x_NE, target_NT)}
    params[name] = {**params[name], 'ffn': {**params[name]['ffn'], **gate}}
  ffn_config = dataclasses.replace(model.ffn, routing='learned')
  return params, dataclasses.replace(model, ffn=ffn_config, control=route if squared else 'masked')


def fit_gate(x_ND: np.ndarray, target_NT: np.ndarray) -> dict[str, jax.Array]:
  """Fit a linear gate to the activity of tiles, by ridge regression."""
  weight_DT, bias_T = fit_ridge(x_ND, target_NT)
  return {'kernel': jnp.asarray(weight_DT, jnp.float32), 'bias': jnp.asarray(bias_T, jnp.float32)}


def fit_ridge(x_ND: np.ndarray, target_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return weights [D, T] and biases [T] by ridge regression of targets on inputs, in float64."""
  x_NE = np.concatenate([x_ND, np.ones((len(x_ND), 1))], axis=1).astype(np.float64)
  fitted_ET = np.linalg.solve(x_NE.T @ x_NE + RIDGE * np.eye(x_NE.shape[1]), x_NE.T @ target_NT)
  return fitted_ET[:-1], fitted_ET[-1]


def _first_state(model: ModelConfig, trained: checkpoints.Trained) -> Any:
  """Return the routing state of a model with a control that keeps one, such as keys drawn at random."""
  return transformer.init(transformer.TransformerLM(model, len(trained.vocabulary)), jax.random.key(0))[1]
