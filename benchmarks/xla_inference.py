"""The language model in plain float32 JAX, as fast as we could make it: a yardstick of benchmarks/inference_speed.py.

`dense` multiplies by all tiles at once, like an ordinary feed-forward layer. `sparse` computes each token's own tile.
For one token it slices the tile's weights out; for more it sorts the tokens by tile (`ffn.compute_sparse`). Weights are
float32 with their scales multiplied in, and activations are not quantised.

Attention is the fastest of five forms for XLA on CPU. For one row it computes two dot products a head, which is faster
than a batched product. All rows are at the same position, which saves scatters.
"""

import dataclasses

import jax
import jax.numpy as jnp

from trix_jax import inference
from trix_jax.core import attention
from trix_jax.inference import forward, weights
from trix_jax.nn import ffn
from trix_jax.nn.model_config import ACTIVATIONS, FFNConfig


def model(packed: inference.LanguageModel, trained: dict, compute: str) -> inference.LanguageModel:
  """Make the float32 twin of a packed model; `trained` are the arrays of `weights.as_trained`."""
  config = weights.InferenceConfig(packed.config.model, packed.config.vocabulary_size, 'float32', 'float32')
  arrays = dict(trained)
  for layer in range(config.model.layers):
    arrays[f'layer_{layer}.ffn'] = float_tiles(trained[f'layer_{layer}.ffn']['tiles'], config.model.ffn, compute)
  apply_tiles = {'dense': dense_ffn, 'sparse': sparse_ffn}[compute]
  computation = forward.XLA._replace(attend=attend, apply_tiles=apply_tiles, empty_key_values=key_values)
  return dataclasses.replace(packed, config=config, arrays=arrays, computation=computation)


def float_tiles(tiles: ffn.TernaryTiles, config: FFNConfig, compute: str) -> dict[str, jax.Array]:
  """Return weights with their scales multiplied in: [D, F] and [F, D] for `dense`, by tile for `sparse`."""
  up_TDH = tiles.up_TDH * tiles.up_scale_TH[:, None]
  down_THD = tiles.down_THD * jnp.broadcast_to(tiles.down_scale_TD, (config.tiles, config.d_model))[:, None]
  if compute == 'dense':
    return {'up': up_TDH.transpose(1, 0, 2).reshape(config.d_model, -1), 'down': down_THD.reshape(-1, config.d_model)}
  return {'up': up_TDH, 'down': down_THD, 'signatures': tiles.signatures_TD, 'scale': tiles.signature_scale_T}


def dense_ffn(arrays, name, config, x_ND, *_):
  layer = arrays[name]
  return ACTIVATIONS[config.activation](x_ND @ layer['up']) @ layer['down'], None


def sparse_ffn(arrays, name, config, x_ND, *_):
  layer = arrays[name]
  score_NT = (x_ND @ layer['signatures'].T) * layer['scale']
  tile_N = jnp.argmax(score_NT, axis=-1).astype(jnp.int32)
  if x_ND.shape[0] == 1:
    up_DH, down_HD = (jax.lax.dynamic_index_in_dim(layer[key], tile_N[0], keepdims=False) for key in ('up', 'down'))
    return ACTIVATIONS[config.activation](x_ND @ up_DH) @ down_HD, None
  T, D, H = layer['up'].shape
  tiles = ffn.TernaryTiles(
    layer['up'], layer['down'], jnp.ones((T, H)), jnp.ones((T, D)), layer['signatures'], layer['scale']
  )
  floats = dataclasses.replace(config, int8_activations=False)
  return ffn.compute_sparse(
    x_ND, jnp.ones((x_ND.shape[0], 1)), tile_N[:, None], jnp.ones((x_ND.shape[0], 1)), tiles, floats
  ), None


def key_values(batch, heads, width, slots, _):
  """Make an empty cache of keys [B, H, W, S] and values [B, H, S, W], always float32."""
  return jnp.zeros((batch, heads, width, slots)), jnp.zeros((batch, heads, slots, width))


def attend(model, qkv_BLE, position_B, key_values):
  """Attend as `forward.attend_trained`, for one token a row, or for prompts that begin at position 0."""
  q_BLHW, k_BLHW, v_BLHW = forward.split_heads(model, qkv_BLE, position_B)
  out_BLHW, key_values = attend_heads(q_BLHW, k_BLHW, v_BLHW, position_B, key_values)
  return out_BLHW.reshape(*qkv_BLE.shape[:2], -1), key_values


def attend_heads(q_BLHW, k_BLHW, v_BLHW, position_B, key_values):
  B, L, H, W = q_BLHW.shape
  first = position_B[0]
  keys_BHWS = jax.lax.dynamic_update_slice(key_values[0], k_BLHW.transpose(0, 2, 3, 1), (0, 0, 0, first))
  values_BHSW = jax.lax.dynamic_update_slice(key_values[1], v_BLHW.transpose(0, 2, 1, 3), (0, 0, first, 0))
  key_values = keys_BHWS, values_BHSW
  if L > 1:
    return attention.causal_attention(q_BLHW, k_BLHW, v_BLHW), key_values
  q_BHW = q_BLHW[:, 0] * W**-0.5
  visible_S = jnp.arange(values_BHSW.shape[2]) <= first
  if B > 1:
    score_BHS = jnp.where(visible_S, jnp.einsum('bhw,bhws->bhs', q_BHW, keys_BHWS), -jnp.inf)
    return jnp.einsum('bhs,bhsw->bhw', jax.nn.softmax(score_BHS), values_BHSW)[:, None], key_values
  heads = []
  for h in range(H):
    score_S = jnp.where(visible_S, q_BHW[0, h] @ keys_BHWS[0, h], -jnp.inf)
    heads.append(jax.nn.softmax(score_S) @ values_BHSW[0, h])
  return jnp.stack(heads)[None, None], key_values
