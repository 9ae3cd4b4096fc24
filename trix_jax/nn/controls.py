"""Controls, for experiments only: a table of what each replaces in a layer of tiles.

A comparison with a control measures what the changed part contributes. A control trains and is evaluated like any other
model. It has no packed form. A layer trains when there is an RNG stream `tiles`.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from trix_jax.core import routing, signatures, ternary
from trix_jax.errors import InputError
from trix_jax.nn import ffn, router, unit_routings
from trix_jax.nn.model_config import NO_CONTROL

# In a step a centroid moves by this part of the way to the mean of the batch's activations.
KMEANS_RATE = 0.05
SPARSE_AFTER = 0.7
# Steps after which `route_by_redrawn_hash` draws its tiles anew.
REDRAWN_AFTER = 100
# Steps after which `route_by_kept_address` keeps what it reads.
KEPT_AFTER = 100


@dataclasses.dataclass(frozen=True)
class Control:
  """What a control replaces, and the models that it is for.

  Attributes:
    route: how tokens choose tiles; None for the layer's own way.
    execute: how tiles are computed; None for the layer's own way.
    without: the part of a layer behind an index that is left out: `norm`, `output_scale` or `residual`.
    routing: `model.routing` of the models that it is for.
    reads_signatures: whether signatures route.
    any_top_k: whether models in which a token computes several tiles train with it.
  """

  route: ffn.Route | None = None
  execute: ffn.Execute | None = None
  without: str = ''
  routing: str = 'emergent'
  reads_signatures: bool = True
  any_top_k: bool = False


def route_by_hash(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Give each token a fixed tile, its number modulo T, in every context (arXiv 2106.04426)."""
  return _send_to_one(layer, given, _tokens(given).number % layer.config.tiles)


def route_by_previous_hash(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Give each token the tile of the token before it, that one's number modulo T."""
  before = jnp.roll(_tokens(given).number, 1, axis=-1).at[..., 0].set(0)
  return _send_to_one(layer, given, before % layer.config.tiles)


def route_by_balanced_hash(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Give each token a fixed tile, so that tiles get equal shares of the first step's tokens as nearly as can be.

  In the first step a token's tile is its number modulo T.
  """
  tokens, T = _tokens(given), layer.config.tiles
  V = tokens.vocabulary_size
  tile_V = layer.variable('routing', 'token_tile', lambda: jnp.arange(V, dtype=jnp.int32) % T).value
  info = _send_to_one(layer, given, tile_V[tokens.number])
  return dataclasses.replace(info, token_share_V=routing.load(tokens.number.reshape(-1, 1), V))


def route_by_redrawn_hash(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Give each token a tile that is drawn at random, and drawn anew after every `REDRAWN_AFTER` steps."""
  tokens = _tokens(given)
  draw = layer.variable('routing', 'draw', jnp.zeros, (), jnp.int32).value
  tile_V = jax.random.permutation(jax.random.key(draw), tokens.vocabulary_size) % layer.config.tiles
  return _send_to_one(layer, given, tile_V[tokens.number])


def route_by_kept_address(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Read the tile of each token from its embedding for `KEPT_AFTER` steps, then keep it for good.

  What is kept is dealt: the most frequent token first, each to the tile with the best score that has room.
  """
  tokens = _tokens(given)
  N, V = given.asked.x_ND.shape[0], tokens.vocabulary_size
  kept_V = layer.variable('routing', 'kept_tile', lambda: jnp.full(V, -1, jnp.int32)).value
  info, number_N = ffn.route_by_signatures(layer, given), tokens.number.reshape(-1)
  kept_N = kept_V[number_N]
  info = _send_to_one(layer, given, jnp.where(kept_N < 0, info.tile_NK[:, 0], kept_N))
  score_VT = jnp.zeros((V, layer.config.tiles)).at[number_N].add(jax.lax.stop_gradient(info.score_NJ)) / N
  return dataclasses.replace(info, token_share_V=routing.load(number_N[:, None], V), token_score_VT=score_VT)


def route_by_drawn_hash(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Give each token `top_k` tiles that are drawn at random once, each token its own, and never change."""
  tokens, config = _tokens(given), layer.config
  order_VT = jnp.argsort(jax.random.uniform(jax.random.key(0), (tokens.vocabulary_size, config.tiles)), axis=-1)
  tile_VK = order_VT[:, : config.top_k].astype(jnp.int32)
  return unit_routings.send(layer, given, tile_VK[tokens.number.reshape(-1)])


def _tokens(given) -> ffn.Tokens:
  assert given.tokens is not None
  return given.tokens


def _send_to_one(layer, given, tile):
  return unit_routings.send(layer, given, tile.reshape(-1, 1).astype(jnp.int32))


def route_by_random_keys(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Route by keys that are drawn at random once and never change."""
  return ffn.route_by_keys(
    layer, given, *quantise_keys(layer.variable('routing', 'centroid', _first_centroids, layer).value)
  )


def route_by_kmeans_keys(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Route by keys that follow the mean of the activations that chose them, by online k-means."""
  info = route_by_random_keys(layer, given)
  if not layer.has_rng('tiles'):
    return info
  q_ND = given.asked.q_ND
  unit_ND = q_ND / jnp.maximum(jnp.linalg.norm(q_ND, axis=-1, keepdims=True), 1.0)
  chosen_NT = jax.nn.one_hot(info.tile_NK[:, 0], layer.config.tiles)
  activation_TD = jnp.einsum('nt,nd->td', chosen_NT, unit_ND) / len(q_ND)
  return dataclasses.replace(info, activation_TD=activation_TD)


def route_without_gradient(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Pass no gradient from probabilities into signatures and activations."""
  q_ND, step_N1 = jax.lax.stop_gradient((given.asked.q_ND, given.asked.step_N1))
  asked = given.asked._replace(q_ND=q_ND, step_N1=step_N1)
  return route_without_signature_gradient(layer, given._replace(asked=asked))


def route_without_signature_gradient(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Pass no gradient from probabilities into signatures; activations still get theirs."""
  keys = jax.lax.stop_gradient((given.tiles.signatures_TD, given.tiles.signature_scale_T))
  return ffn.route_by_keys(layer, given, *keys)


def route_by_draw(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Draw tiles by their probabilities in training (Gumbel-max)."""
  info = ffn.route_by_signatures(layer, given)
  if not layer.has_rng('tiles'):
    return info
  noise_NT = jax.random.gumbel(layer.make_rng('tiles'), info.probability_NJ.shape)
  tile_NK = routing.select(jnp.log(jnp.maximum(info.probability_NJ, 1e-30)) + noise_NT, layer.config.top_k)
  return dataclasses.replace(info, tile_NK=tile_NK, gate_NK=_gates_of(info, tile_NK, layer, given))


def route_with_dropout(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Drop each tile of a token with probability 1 / 2 in training, and count the others double."""
  info = ffn.route_by_signatures(layer, given)
  if not layer.has_rng('tiles'):
    return info
  kept_NT = jax.random.bernoulli(layer.make_rng('tiles'), 0.5, info.gate_NK.shape)
  return dataclasses.replace(info, gate_NK=2.0 * info.gate_NK * kept_NT)


def route_gradually(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Drop each tile of a token except its best in training, with a probability that rises from 0 to 1.

  It reaches 1 after `SPARSE_AFTER` of the steps. The balance loss counts the load of the remaining tiles.
  """
  config = layer.config
  info = ffn.route_by_signatures(layer, given)
  progress = layer.variable('routing', 'progress', jnp.zeros, ()).value
  if not layer.has_rng('tiles'):
    return info
  every_NT = jnp.broadcast_to(jnp.arange(config.tiles, dtype=jnp.int32), info.score_NJ.shape)
  chosen_NT = (every_NT[:, None] == info.tile_NK[..., None]).any(axis=1)
  kept_NT = chosen_NT | jax.random.bernoulli(layer.make_rng('tiles'), 1 - progress, every_NT.shape)
  return dataclasses.replace(info, tile_NK=every_NT, gate_NK=_gates_of(info, every_NT, layer, given, kept_NT))


def _gates_of(info, tile_NK, layer, given, kept_NK=None):
  """Return the gates of other tiles than those that `info` chose."""
  logit_NT = router.scale_scores(info.score_NJ, given.asked.step_N1, layer.config)
  return routing.gates(info.probability_NJ, logit_NT, tile_NK, layer.config.gate, kept_NK)


TABLE = {
  NO_CONTROL: Control(),
  'hash': Control(route_by_hash, reads_signatures=False),
  'hash_balanced': Control(route_by_balanced_hash, reads_signatures=False),
  'hash_previous': Control(route_by_previous_hash, reads_signatures=False),
  'hash_drawn': Control(route_by_drawn_hash, reads_signatures=False, any_top_k=True),
  'kept_address': Control(route_by_kept_address, reads_signatures=False),
  'hash_redrawn': Control(route_by_redrawn_hash, reads_signatures=False),
  'random_keys': Control(route_by_random_keys, reads_signatures=False),
  'kmeans_keys': Control(route_by_kmeans_keys, reads_signatures=False),
  'activity': Control(unit_routings.route_by_activity, ffn.compute_all, reads_signatures=False),
  'remainder': Control(unit_routings.route_by_remainder, ffn.compute_all, reads_signatures=False),
  'squared_gate': Control(
    unit_routings.route_by_squared_gate, ffn.compute_all, routing='learned', reads_signatures=False
  ),
  'energy': Control(unit_routings.route_by_energy, ffn.compute_all, reads_signatures=False),
  'grouped_votes': Control(unit_routings.route_by_grouped_votes, ffn.compute_all, reads_signatures=False),
  'witnesses': Control(unit_routings.route_by_witnesses, ffn.compute_all, reads_signatures=False),
  'low_rank_energy': Control(unit_routings.route_by_low_rank_energy, ffn.compute_all, reads_signatures=False),
  **{
    f'share_{share}': Control(functools.partial(unit_routings.route_by_share, share=share))
    for share in unit_routings.SHARES
  },
  'masked': Control(execute=ffn.compute_all),  # As fast for narrow tiles as for wide ones.
  'no_router_gradient': Control(route_without_gradient),
  'no_signature_gradient': Control(route_without_signature_gradient),
  'gumbel': Control(route_by_draw),
  'tile_dropout': Control(route_with_dropout, routing='dense'),
  'gradual': Control(route_gradually),
  'no_norm': Control(without='norm'),
  'no_output_scale': Control(without='output_scale'),
  'no_residual': Control(without='residual'),
}


def find(name: str) -> Control:
  """Return an entry of the table. Raise InputError for another name."""
  if name not in TABLE:
    raise InputError(f'model.control is {name!r}; choose one of {", ".join(TABLE)}')
  return TABLE[name]


# Layers behind an index without one of their parts.
ABLATIONS = tuple(name for name, control in TABLE.items() if control.without)


def _first_centroids(layer):
  return jax.random.normal(layer.make_rng('params'), (layer.config.tiles, layer.config.d_model))


def quantise_keys(centroid_TD: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Return keys in the form of `votes` signatures: int8 integers, and scales to root mean square 1."""
  key_TD, _ = ternary.quantise_int8(jax.lax.stop_gradient(centroid_TD))
  return key_TD, signatures.scale_of(key_TD, 'votes')


def move(
  state: Mapping[str, jax.Array], metrics: Mapping[str, jax.Array], step: jax.Array, steps: int
) -> dict[str, jax.Array]:
  """Return the state of a layer after a step, in which its control, if any, changes what is its own."""
  after = dict(state)
  if 'draw' in state:
    after['draw'] = ((step + 1) // REDRAWN_AFTER).astype(jnp.int32)
  if 'token_tile' in state:
    dealt_V = deal_tokens(metrics['token_share_V'], len(metrics['tile_load']))
    after['token_tile'] = jnp.where(step == 0, dealt_V, state['token_tile'])
  if 'kept_tile' in state:
    share_V, score_VT = metrics['token_share_V'], metrics['token_score_VT']
    mean_VT = score_VT / jnp.where(share_V > 0, share_V, 1.0)[:, None]
    dealt_V = deal_tokens(share_V, score_VT.shape[1], mean_VT)
    after['kept_tile'] = jnp.where(step == KEPT_AFTER - 1, dealt_V, state['kept_tile'])
  if 'progress' in state:
    after['progress'] = jnp.minimum((step + 1) / (SPARSE_AFTER * steps), 1.0).astype(jnp.float32)
  if 'activation_TD' in metrics:
    load_T1 = metrics['tile_load'][:, None]
    mean_TD = metrics['activation_TD'] / jnp.where(load_T1 > 0, load_T1, 1.0)
    unit_TD = state['centroid'] / jnp.maximum(jnp.linalg.norm(state['centroid'], axis=-1, keepdims=True), 1e-6)
    after['centroid'] = jnp.where(load_T1 > 0, unit_TD + KMEANS_RATE * (mean_TD - unit_TD), unit_TD)
  return after


def deal_tokens(share_V: jax.Array, tiles: int, score_VT: jax.Array | None = None) -> jax.Array:
  """Deal tokens to tiles, the most frequent one first: int32 [V].

  Each goes to the tile with the least so far, or by its scores to the best one that has less than an equal share. A
  token that was not seen counts as a thousandth of an equal share.
  """
  V, rare = len(share_V), 0.001 / len(share_V)
  room = (share_V.sum() + V * rare) / tiles

  def deal(load_T, token):
    liked_T = -load_T if score_VT is None else jnp.where(load_T < room, score_VT[token], -jnp.inf)
    tile = jnp.argmax(liked_T).astype(jnp.int32)
    return load_T.at[tile].add(share_V[token] + rare), tile

  order_V = jnp.argsort(-share_V)
  _, dealt_V = jax.lax.scan(deal, jnp.zeros(tiles), order_V)
  return jnp.zeros(V, jnp.int32).at[order_V].set(dealt_V)
