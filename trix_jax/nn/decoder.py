"""The decoder-only transformer, written once. Training gives it Flax modules, inference packed arrays and a cache.

Blocks are pre-norm: attention and the tiles each add their output for a prepared input to the residual stream.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from trix_jax.core import attention, routing
from trix_jax.nn.model_config import ModelConfig

CONVOLUTION_WIDTH = 4


class LayerCache(NamedTuple):
  """One layer's cache of earlier tokens.

  Attributes:
    key_values: keys and values of all earlier tokens, for `BlockParts.attend`.
    attention_inputs_BWD, ffn_inputs_BWD: latest inputs of the short convolutions; None in models without them.
  """

  key_values: Any
  attention_inputs_BWD: jax.Array | None
  ffn_inputs_BWD: jax.Array | None


class Positions(NamedTuple):
  """Where new tokens stand behind those of a cache.

  Attributes:
    position_BL: int32, positions of the new tokens.
    length_B: int32, valid new tokens of each row; tokens after them do not change earlier results.
  """

  position_BL: jax.Array
  length_B: jax.Array


def _unchanged(x: jax.Array) -> jax.Array:
  return x


class ModelParts(NamedTuple):
  """What a model computes with, apart from its head.

  Attributes:
    embed: tokens [B, L] -> [B, L, D].
    embed_positions: where the tokens stand -> [..., L, D]; the `reference` form asks for it.
    apply_layer: (number of the layer, x_BLD, its cache or None) -> x_BLD, RoutingInfo, its new cache.
    normalise: (name, x_BLD) -> x_BLD.
    drop_out: x -> x; inference leaves it out.
  """

  embed: Callable[[jax.Array], jax.Array]
  embed_positions: Callable[[Positions | None], jax.Array]
  apply_layer: Callable[[int, jax.Array, LayerCache | None], tuple[jax.Array, routing.RoutingInfo, LayerCache | None]]
  normalise: Callable[[str, jax.Array], jax.Array]
  drop_out: Callable[[jax.Array], jax.Array] = _unchanged


class BlockParts(NamedTuple):
  """What a block computes with.

  Attributes:
    normalise: (name, x_BLD) -> x_BLD.
    convolve: (name, x_BPD) -> x_BLD, see `short_convolution`; the `modern` form asks for it.
    project_heads: x_BLD -> queries, keys and values, [B, L, heads, W] each.
    attend: (queries, keys, values, `LayerCache.key_values`) -> out_BLHW, new key_values; W is the width of a head.
    project_out: out_BLD -> x_BLD.
    apply_tiles: x_BLD -> y_BLD, RoutingInfo.
    drop_out: x -> x; inference leaves it out.
    has_residual: whether the tiles' output is added to their block's input. Only an ablation replaces it.
  """

  normalise: Callable[[str, jax.Array], jax.Array]
  convolve: Callable[[str, jax.Array], jax.Array]
  project_heads: Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
  attend: Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
  project_out: Callable[[jax.Array], jax.Array]
  apply_tiles: Callable[[jax.Array], tuple[jax.Array, routing.RoutingInfo]]
  drop_out: Callable[[jax.Array], jax.Array] = _unchanged
  has_residual: bool = True


def apply_model(
  config: ModelConfig,
  parts: ModelParts,
  token_BL: jax.Array,
  caches: list[LayerCache] | None = None,
  positions: Positions | None = None,
) -> tuple[jax.Array, list[routing.RoutingInfo], list[Any]]:
  """Compute hidden states [B, L, D] for the head, each layer's RoutingInfo of all B * L tokens, and new caches.

  Args:
    config, parts: of the model.
    token_BL: int32.
    caches: of earlier tokens, one for each layer; None for texts that begin at position 0.
    positions: of the tokens; needed with caches.
  """
  x_BLD = parts.embed(token_BL)
  if config.form == 'reference':
    x_BLD += parts.embed_positions(positions)
  x_BLD = parts.drop_out(x_BLD)
  infos, new_caches = [], []
  for layer in range(config.layers):
    x_BLD, info, cache = parts.apply_layer(layer, x_BLD, None if caches is None else caches[layer])
    infos.append(info)
    new_caches.append(cache)
  return parts.normalise('final_norm', x_BLD), infos, new_caches


def apply_block(
  config: ModelConfig,
  parts: BlockParts,
  x_BLD: jax.Array,
  cache: LayerCache | None = None,
  positions: Positions | None = None,
) -> tuple[jax.Array, routing.RoutingInfo, LayerCache | None]:
  """Compute a block on new tokens; arguments as in `apply_model`. The new cache is None without one."""
  B, L, D = x_BLD.shape

  def prepare(part, x_BLD, inputs_BWD):
    x_BLD = parts.normalise(f'{part}_norm', x_BLD)
    if config.form != 'modern':
      return x_BLD, None
    if inputs_BWD is None:
      padded_BPD = jnp.pad(x_BLD, ((0, 0), (CONVOLUTION_WIDTH - 1, 0), (0, 0)))
    else:
      padded_BPD = jnp.concatenate([inputs_BWD, x_BLD], axis=1)
    return parts.convolve(f'{part}_convolution', padded_BPD), padded_BPD

  before = cache or LayerCache(None, None, None)
  h_BLD, attention_padded_BPD = prepare('attention', x_BLD, before.attention_inputs_BWD)
  q_BLHW, k_BLHW, v_BLHW = parts.project_heads(h_BLD)
  if config.form == 'modern':
    q_BLHW, k_BLHW = (_rotate(normalise_heads(x_BLHW), config, positions) for x_BLHW in (q_BLHW, k_BLHW))
  out_BLHW, key_values = parts.attend(q_BLHW, k_BLHW, v_BLHW, before.key_values)
  x_BLD = x_BLD + parts.drop_out(parts.project_out(out_BLHW.reshape(B, L, D)))

  h_BLD, ffn_padded_BPD = prepare('ffn', x_BLD, before.ffn_inputs_BWD)
  y_BLD, info = parts.apply_tiles(h_BLD)
  y_BLD = parts.drop_out(y_BLD)
  x_BLD = x_BLD + y_BLD if parts.has_residual else y_BLD
  if cache is None:
    return x_BLD, info, None
  assert positions is not None
  inputs = (_last_inputs(padded, positions.length_B) for padded in (attention_padded_BPD, ffn_padded_BPD))
  return x_BLD, info, LayerCache(key_values, *inputs)


def _rotate(x_BLHW, config, positions):
  if positions is None:
    return attention.rotary(x_BLHW)
  return attention.rotary(x_BLHW, positions.position_BL, config.context)


def normalise_heads(x_BLHW: jax.Array) -> jax.Array:
  """Normalise queries or keys to root mean square 1."""
  normalised: Any = nn.RMSNorm(use_scale=False, parent=None).apply({}, x_BLHW)
  return normalised


def short_convolution(x_BPD: jax.Array, taps_WD: jax.Array) -> jax.Array:
  """Add to x_t a per-feature mix of x_t ... x_{t-3}: [B, W - 1 + L, D] -> [B, L, D].

  The first W - 1 inputs are earlier ones. This depthwise causal convolution gives attention and tiles the last few
  characters for 4 D parameters. Primer (arXiv 2109.08668) has such convolutions in attention.
  """
  before = taps_WD.shape[0] - 1
  L = x_BPD.shape[1] - before
  return x_BPD[:, before:] + sum(taps_WD[lag] * x_BPD[:, before - lag : before - lag + L] for lag in range(before + 1))


def _last_inputs(padded_BPD, length_B):
  """Return the last valid inputs of a convolution, [B, W - 1, D], None without one."""
  if padded_BPD is None:
    return None
  count = CONVOLUTION_WIDTH - 1
  if padded_BPD.shape[1] == count + 1:
    return padded_BPD[:, 1:]
  index_BW = length_B[:, None] + jnp.arange(count)
  return jnp.take_along_axis(padded_BPD, index_BW[..., None], axis=1)
