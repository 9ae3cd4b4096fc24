"""Ternary feed-forward layers: tiles as pure functions, and the Flax modules that hold their parameters."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
from flax import linen as nn

from trix_jax.core import dispatch, routing, signatures, ternary
from trix_jax.errors import InputError
from trix_jax.nn import router
from trix_jax.nn.model_config import ACTIVATIONS, FFNConfig

# To move a row to a tile and back takes a CPU as long as this many hidden units of a product over all tiles, with
# gradients (benchmarks/chosen_or_all.py).
UNITS_OF_A_MOVE = 50


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TernaryTiles:
  """Quantised tiles, ready to compute: codes (float32 integers), and per-output scales with the tile's scale in them.

  A pytree.

  Attributes:
    up_TDH, down_THD: codes in {-1, 0, 1}.
    up_scale_TH, down_scale_TD: float32.
    signatures_TD, signature_scale_T: see `signatures.read_signatures`.
  """

  up_TDH: jax.Array
  down_THD: jax.Array
  up_scale_TH: jax.Array
  down_scale_TD: jax.Array
  signatures_TD: jax.Array
  signature_scale_T: jax.Array


def quantise_tiles(params: dict[str, jax.Array], config: FFNConfig) -> TernaryTiles:
  """Read the ternary tiles from latent `up` and `down`, `up_scale`, `down_scale` and, if any, `output_scale`."""
  up_TDH, up_T11 = ternary.ternarise(params['up'], config.quantiser)
  down_THD, down_T11 = ternary.ternarise(params['down'], config.quantiser)
  signatures_TD, signature_scale_T = signatures.read_signatures(up_TDH, params['up'], config.signature)
  down_scale_TD = down_T11[:, 0] * params['down_scale']
  if 'output_scale' in params:
    down_scale_TD = down_scale_TD * params['output_scale'][:, None]
  return TernaryTiles(
    up_TDH, down_THD, up_T11[:, 0] * params['up_scale'], down_scale_TD, signatures_TD, signature_scale_T
  )


def measure_outputs(tiles: TernaryTiles) -> jax.Array:
  """Return the norm of what each hidden unit adds to the output when its activation is 1, [T, H]."""
  return jnp.linalg.norm(tiles.down_THD * tiles.down_scale_TD[:, None], axis=-1)


def _rescaled(accumulator, step, scale):
  """Rescale accumulators to float32, with roundings in the same order on every path."""
  return (accumulator * step) * scale


def compute_dense(
  q_ND: jax.Array, step_N1: jax.Array, gate_NT: jax.Array, tiles: TernaryTiles, config: FFNConfig
) -> jax.Array:
  """Compute every tile on every token and sum the outputs, weighted by their gates: [N, D].

  Hidden activations are quantised tile by tile, then rescaled before one product over all tiles. That product equals
  the sum of the tiles' own integer products up to float32 rounding. It needs the highest precision, because a GPU would
  otherwise round the rescaled activations to TF32.
  """
  N, T, H = q_ND.shape[0], config.tiles, config.hidden
  up_DTH = tiles.up_TDH.transpose(1, 0, 2).reshape(config.d_model, T * H)
  hidden_NTH = _rescaled((q_ND @ up_DTH).reshape(N, T, H), step_N1[:, None], tiles.up_scale_TH)
  q_NTH, step_NT1 = ternary.quantise_activations(ACTIVATIONS[config.activation](hidden_NTH), config.int8_activations)
  hidden_NTH = q_NTH * (step_NT1 * gate_NT[..., None])
  down_THD = tiles.down_THD * tiles.down_scale_TD[:, None, :]
  return jnp.matmul(hidden_NTH.reshape(N, T * H), down_THD.reshape(T * H, config.d_model), precision='highest')


def compute_sparse(
  q_ND: jax.Array, step_N1: jax.Array, tile_NK: jax.Array, gate_NK: jax.Array, tiles: TernaryTiles, config: FFNConfig
) -> jax.Array:
  """Compute each token's own tiles only, weighted by their gates: [N, D].

  The int8 accumulators are bit-exact. The cost is 4 * N * K * D * H floating-point operations plus padding, for any T.
  """
  if tile_NK.shape[0] == 0:
    return jnp.zeros_like(q_ND)
  plan = dispatch.plan_dispatch(tile_NK.reshape(-1), config.tiles)

  def of_block(scale_TX):
    return dispatch.tiles_of_blocks(scale_TX, plan.tile_G)[:, None]

  q_GRD, step_GR1 = dispatch.to_slots(q_ND, plan), dispatch.to_slots(step_N1, plan)
  hidden_GRH = _rescaled(dispatch.multiply(q_GRD, tiles.up_TDH, plan), step_GR1, of_block(tiles.up_scale_TH))
  q_GRH, step_GR1 = ternary.quantise_activations(ACTIVATIONS[config.activation](hidden_GRH), config.int8_activations)
  out_GRD = _rescaled(dispatch.multiply(q_GRH, tiles.down_THD, plan), step_GR1, of_block(tiles.down_scale_TD))
  out_AD = dispatch.from_slots(out_GRD, plan)
  # This is a product because XLA on CPU takes four times as long for the gate's gradient of a sum.
  return jnp.einsum('nkd,nk->nd', out_AD.reshape(tile_NK.shape + (-1,)), gate_NK)


def compute_all(
  q_ND: jax.Array, step_N1: jax.Array, tile_NK: jax.Array, gate_NK: jax.Array, tiles: TernaryTiles, config: FFNConfig
) -> jax.Array:
  """Compute every tile on every token, weighted by the gates of its own tiles and by 0 for others: [N, D]."""
  N = len(tile_NK)
  gate_NT = jnp.zeros((N, config.tiles), jnp.float32).at[jnp.arange(N)[:, None], tile_NK].add(gate_NK)
  return compute_dense(q_ND, step_N1, gate_NT, tiles, config)


def compute(
  q_ND: jax.Array, step_N1: jax.Array, tile_NK: jax.Array, gate_NK: jax.Array, tiles: TernaryTiles, config: FFNConfig
) -> jax.Array:
  """Compute each token's tiles, weighted by their gates, in the cheaper of both ways: [N, D]."""
  execute = compute_all if all_cost_less(config, tile_NK.shape[1]) else compute_sparse
  return execute(q_ND, step_N1, tile_NK, gate_NK, tiles, config)


def all_cost_less(config: FFNConfig, chosen: int) -> bool:
  """Return whether computing all tiles costs less than moving every row to its `chosen` tiles and back.

  It does where all are chosen, and on a CPU where a token takes many narrow tiles.
  """
  if chosen == config.tiles:
    return True
  return jax.default_backend() == 'cpu' and config.d_ff < chosen * (config.hidden + UNITS_OF_A_MOVE)


def compute_tile_outputs(x_ND: jax.Array, tiles: TernaryTiles, config: FFNConfig) -> jax.Array:
  """Compute every tile on every token with gate 1: [T, N, D]. For tests and for counting dead tiles."""
  N, T = x_ND.shape[0], config.tiles
  q_ND, step_N1 = ternary.quantise_activations(x_ND, config.int8_activations)
  tile_A1 = jnp.repeat(jnp.arange(T, dtype=jnp.int32), N)[:, None]
  gate_A1 = jnp.ones((T * N, 1), jnp.float32)
  y_AD = compute_sparse(jnp.tile(q_ND, (T, 1)), jnp.tile(step_N1, (T, 1)), tile_A1, gate_A1, tiles, config)
  return y_AD.reshape(T, N, -1)


def _uniform(limit):
  return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -limit, limit)


class Tokens(NamedTuple):
  """The tokens at a layer's input, for routings that look at them.

  Attributes:
    number: int32 [...], which entries of the vocabulary.
    vocabulary_size: V.
    embedding: [..., D], at root mean square 1; None unless `FFNConfig.address` is `token`.
  """

  number: jax.Array
  vocabulary_size: int
  embedding: jax.Array | None = None


class RouteInput(NamedTuple):
  """What a layer routes by: what is asked, its tiles, and the tokens, which are None outside a model."""

  asked: router.Asked
  tiles: TernaryTiles
  tokens: Tokens | None


# How a layer chooses tiles, and how it computes them: (q_ND, step_N1, tile_NK, gate_NK, tiles, config) -> y_ND.
Route = Callable[[nn.Module, RouteInput], routing.RoutingInfo]
Execute = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, TernaryTiles, FFNConfig], jax.Array]


def route_by_signatures(layer: nn.Module, given: RouteInput) -> routing.RoutingInfo:
  """Route by the tiles' signatures, by a gate where the layer has one, or as `config.routing` says otherwise.

  A gate scores the tiles under `learned` routing, and under any that scores do not decide if the parameters have one.
  """
  config: FFNConfig = layer.config
  if not layer.is_initializing():
    layer.sow('asked', 'asked', given.asked)  # Kept only where a caller makes the collection mutable.
  has_gate = config.way.has_gate or (config.way.reads_gate and layer.has_variable('params', 'gate'))
  gate = Gate(config.d_model, config.tiles, name='gate')() if has_gate else None
  return route_by_keys(layer, given, given.tiles.signatures_TD, given.tiles.signature_scale_T, gate)


class Gate(nn.Module):
  """The parameters of a learned gate, kernel [D, T] and bias [T]."""

  width: int
  tiles: int

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    D, T = self.width, self.tiles
    kernel_DT = self.param('kernel', nn.initializers.normal(D**-0.5), (D, T))
    return kernel_DT, self.param('bias', nn.initializers.zeros, (T,))


def route_by_keys(
  layer: nn.Module, given: RouteInput, key_TD: jax.Array, scale_T: jax.Array, gate: Any = None
) -> routing.RoutingInfo:
  """Route by any keys of the tiles, or by a gate, with the layer's balance bias."""
  by = router.Router(key_TD, scale_T, bias_T=read_balance_bias(layer), gate=gate)
  return router.route(by, layer.config, given.asked, draw_routing_key(layer))


def read_balance_bias(layer: nn.Module) -> jax.Array | None:
  """Return the layer's balance bias [T] from the collection `routing`, None without."""
  config: FFNConfig = layer.config
  if not config.balance_bias:
    return None
  bias_T: jax.Array = layer.variable('routing', 'balance_bias', jnp.zeros, (config.tiles,)).value
  return bias_T


def draw_routing_key(layer: nn.Module) -> jax.Array | None:
  """Draw a key from the RNG stream `routing` for random routing, None for any other."""
  return layer.make_rng('routing') if layer.config.way.is_random else None


def make_parameters(layer: nn.Module) -> dict[str, jax.Array]:
  """Make or read the parameters of a layer's tiles, without output scales."""
  config: FFNConfig = layer.config
  D, T, H = config.d_model, config.tiles, config.hidden
  if config.quantiser == 'threshold':
    # U(-0.8, 0.8) makes 37.5 % of the codes nonzero. The scales bring the output to the variance of the input.
    alive, up_init, down_init = 0.375, _uniform(0.8), _uniform(0.8)
    up_scale, down_scale = (alive * D) ** -0.5, (alive * config.d_ff) ** -0.5
  else:
    up_init, down_init = nn.initializers.normal(D**-0.5), nn.initializers.normal(config.d_ff**-0.5)
    up_scale = down_scale = 1.0
  down_scale_shape = (D,) if config.shared_down_scale else (T, D)
  return {
    'up': layer.param('up', up_init, (T, D, H)),
    'down': layer.param('down', down_init, (T, H, D)),
    'up_scale': layer.param('up_scale', nn.initializers.constant(up_scale), (T, H)),
    'down_scale': layer.param('down_scale', nn.initializers.constant(down_scale), down_scale_shape),
  }


def apply_tiles(
  config: FFNConfig,
  tiles: TernaryTiles,
  x_ND: jax.Array,
  tokens: Tokens | None,
  choose: Callable[[router.Asked], routing.RoutingInfo],
  execute: Execute = compute,
) -> tuple[jax.Array, routing.RoutingInfo]:
  """Quantise the stream x_ND, route by what is asked, and compute: what every layer of tiles does."""
  stream = quantise_asked(x_ND, config)
  info = choose(choose_asked(config, stream, tokens))
  return execute(stream.q_ND, stream.step_N1, info.tile_NK, info.gate_NK, tiles, config), info


def choose_asked(config: FFNConfig, stream: router.Asked, tokens: Tokens | None) -> router.Asked:
  """Return what the keys score: the stream, or the tokens' embeddings."""
  if config.address == 'stream':
    return stream
  if tokens is None or tokens.embedding is None:
    raise InputError("a layer with address = 'token' scores the embeddings of its tokens; give it `Tokens` with them")
  return quantise_asked(tokens.embedding.reshape(stream.x_ND.shape), config)


def quantise_asked(x_ND: jax.Array, config: FFNConfig) -> router.Asked:
  """Return what the keys score, from what it is before it is quantised."""
  return router.Asked(x_ND, *ternary.quantise_activations(x_ND, config.int8_activations))


def apply_layer(
  layer: nn.Module, x_ND: jax.Array, params: dict[str, jax.Array], tokens: Tokens | None
) -> tuple[jax.Array, routing.RoutingInfo]:
  """Call `apply_tiles` with a Flax layer's `config`, `route` and `execute`."""
  tiles = quantise_tiles(params, layer.config)

  def choose(asked):
    return layer.route(layer, RouteInput(asked, tiles, tokens))

  return apply_tiles(layer.config, tiles, x_ND, tokens, choose, layer.execute)


def flatten_tokens(layer: nn.Module, x: jax.Array) -> jax.Array:
  """Flatten a layer's input [..., D] to [N, D]. Raise InputError for another width."""
  D = layer.config.d_model
  if x.shape[-1] != D:
    raise InputError(f'a layer of width {D} was given an array of shape {x.shape}; its last axis must be {D}')
  return x.reshape(-1, D)


@final
class TriXFFN(nn.Module):
  """A feed-forward layer of ternary tiles: y = the sum of a token's tiles, each times its gate.

  A call takes x [..., D], and `Tokens` where the routing looks at them. It returns y [..., D] and a
  `routing.RoutingInfo`. `random` routing draws from the RNG stream `routing`. The layer reads a balance bias from the
  collection `routing` and never writes it.

  Attributes:
    config: of the layer.
    route: how tokens choose tiles.
    execute: `compute_all` computes every tile on every token, and multiplies the outputs of unchosen tiles by 0.
      `compute_sparse` is the same function at the cost of the chosen tiles only. So a layer trained as one can be
      evaluated as the other.
  """

  config: FFNConfig
  route: Route = route_by_signatures
  execute: Execute = compute_all

  @nn.compact
  def __call__(self, x: jax.Array, tokens: Tokens | None = None) -> tuple[jax.Array, routing.RoutingInfo]:
    x_ND = flatten_tokens(self, x)
    y_ND, info = apply_layer(self, x_ND, make_parameters(self), tokens)
    return y_ND.reshape(x.shape), info


def SparseTriXFFN(config: FFNConfig, **settings: Any) -> TriXFFN:
  """Make the layer in which each token computes its `top_k` tiles only, in training and inference alike."""
  return TriXFFN(config, execute=compute_sparse, **settings)


@functools.partial(jax.jit, static_argnums=1)
def find_silent_tiles(tiles: TernaryTiles, config: FFNConfig) -> jax.Array:
  """Return True for tiles that output zero on forced input (64 standard normal vectors), [T] bool."""
  probe_ND = jax.random.normal(jax.random.key(0), (64, config.d_model))
  return jnp.max(jnp.abs(compute_tile_outputs(probe_ND, tiles, config)), axis=(1, 2)) == 0
