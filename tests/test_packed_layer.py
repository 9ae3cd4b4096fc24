"""One function: what a trained layer computes is what the packed kernels compute from its codes."""

import jax
import numpy as np
import pytest
from tiers import fast_first

import xla_kernels
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig


@pytest.mark.parametrize(
  'settings',
  fast_first(
    [
      {'top_k': 2, 'tiles': 8},
      {},
      {'signature': 'sign', 'gate': 'one_hot'},
      {'activation': 'relu', 'balance_bias': True},
    ]
  ),
)
def test_a_sparse_layer_is_what_the_kernels_compute(settings):
  config = FFNConfig(**{'d_model': 48, 'd_ff': 160, 'tiles': 4, **settings})
  layer = ffn.SparseTriXFFN(config)
  x_ND = jax.random.normal(jax.random.key(0), (70, config.d_model))
  variables = layer.init(jax.random.key(1), x_ND)
  bias_T = np.linspace(-3, 3, config.tiles).astype(np.float32) if config.balance_bias else None
  if bias_T is not None:
    variables = {**variables, 'routing': {'balance_bias': bias_T}}
  y_ND, info = jax.jit(layer.apply)(variables, x_ND)

  tiles = ffn.quantise_tiles(variables['params'], config)
  codes = np.asarray(tiles.signatures_TD).astype(np.int8)
  tile_NK, score_NK = xla_kernels.route(
    x_ND,
    xla_kernels.pack(codes) if config.signature == 'sign' else codes,
    bias_T,
    scale_T=tiles.signature_scale_T,
    top_k=config.top_k,
  )
  np.testing.assert_array_equal(tile_NK, info.tile_NK)
  np.testing.assert_array_equal(score_NK, np.take_along_axis(np.asarray(info.score_NJ), np.asarray(tile_NK), axis=1))

  up, down = (
    xla_kernels.pack(np.asarray(codes).swapaxes(1, 2).astype(np.int8)) for codes in (tiles.up_TDH, tiles.down_THD)
  )
  packed_ND = xla_kernels.routed_tile_ffn(
    x_ND, up, tiles.up_scale_TH, down, tiles.down_scale_TD, tile_NK, info.gate_NK, config.activation
  )
  np.testing.assert_allclose(packed_ND, y_ND, rtol=1e-6, atol=1e-6 * np.abs(y_ND).max())
