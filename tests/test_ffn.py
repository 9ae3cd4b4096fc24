import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import apply

from trix_jax import configuration
from trix_jax.core import routing, signatures, ternary
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig

_MODEL = configuration.reference_config('emergent').model
REFERENCE = {
  name: _MODEL[name]
  for name in ('signature', 'gate', 'quantiser', 'int8_activations', 'activation', 'shared_down_scale')
}


def layer(sparse=True, N=40, d_model=24, d_ff=48, tiles=4, seed=0, **settings):
  """config, module, parameters with random scales, inputs."""
  config = FFNConfig(d_model=d_model, d_ff=d_ff, tiles=tiles, **settings)
  module = (ffn.SparseTriXFFN if sparse else ffn.TriXFFN)(config)
  x = jnp.asarray(np.random.default_rng(seed).standard_normal((N, d_model)), jnp.float32)
  params = jax.jit(module.init)({'params': jax.random.key(seed), 'routing': jax.random.key(1)}, x)['params']
  for index, name in enumerate(('up_scale', 'down_scale')):
    params[name] *= jax.random.uniform(jax.random.key(7 + index), params[name].shape, minval=0.5, maxval=1.5)
  return config, module, params, x


def call(module, params, x):
  return jax.jit(lambda params, x: apply(module, {'params': params}, x, rngs={'routing': jax.random.key(5)}))(params, x)


def relative_error(y, expected):
  return np.max(np.abs(y - expected)) / np.max(np.abs(expected))


def integer_ffn(x, params, config, tile_N, gate_N):
  """The layer in NumPy with int64 accumulators and float32 in the documented order, one tile a token."""

  def quantise(v):
    a = np.abs(v).max(axis=-1, keepdims=True)
    scaled = v * np.where(a > 0, np.float32(127) / np.where(a > 0, a, np.float32(1)), np.float32(0))
    return np.rint(scaled).astype(np.int64), a * (np.float32(1) / np.float32(127))

  codes = {}
  scales = {}
  for name in ('up', 'down'):
    c, s = ternary.ternarise(params[name], config.quantiser)
    codes[name] = np.asarray(c).astype(np.int64)
    scales[name] = np.asarray(s)[:, 0] * np.asarray(params[name + '_scale'])
  q, step = quantise(np.asarray(x))
  accumulators = np.einsum('nd,ndh->nh', q, codes['up'][tile_N])
  hidden = np.maximum((accumulators.astype(np.float32) * step) * scales['up'][tile_N], 0)
  if config.activation == 'relu_squared':
    hidden = hidden * hidden
  q, step = quantise(hidden)
  accumulators = np.einsum('nh,nhd->nd', q, codes['down'][tile_N])
  return ((accumulators.astype(np.float32) * step) * scales['down'][tile_N]) * gate_N[:, None]


@pytest.mark.parametrize('activation', ['relu', 'relu_squared'])
@pytest.mark.parametrize('quantiser', ternary.QUANTISERS)
def test_the_sparse_layer_is_the_integer_layer(activation, quantiser):
  config, module, params, x = layer(activation=activation, quantiser=quantiser)
  y, info = call(module, params, x)
  expected = integer_ffn(x, params, config, np.asarray(info.tile_NK)[:, 0], np.asarray(info.gate_NK)[:, 0])
  assert relative_error(y, expected) <= 1e-6


def test_accumulators_are_rescaled_in_the_order_of_the_kernels():
  rng = np.random.default_rng(0)
  accumulator = rng.integers(-4000, 4000, 1000).astype(np.float32)
  step, scale = rng.random((2, 1000)).astype(np.float32)
  want = (accumulator * step) * scale
  np.testing.assert_array_equal(jax.jit(ffn._rescaled)(accumulator, step, scale), want)
  assert np.any(accumulator * (step * scale) != want)


def test_tiles_are_chosen_by_exact_integer_scores():
  _, module, params, x = layer()
  _, info = call(module, params, x)
  codes, _ = ternary.ternarise(params['up'], 'absmean')
  tally = np.asarray(codes).sum(axis=-1).astype(np.int64)
  scale = np.float32(1) / np.sqrt(np.mean(tally.astype(np.float32) ** 2, axis=-1))
  q = np.asarray(ternary.quantise_int8(x)[0]).astype(np.int64)
  np.testing.assert_array_equal(info.tile_NK[:, 0], np.argmax((q @ tally.T).astype(np.float32) * scale, axis=-1))


@pytest.mark.parametrize('settings', [{}, {'gate': 'one_hot', 'signature': 'sign'}, REFERENCE, {'top_k': 2}])
@pytest.mark.parametrize('name', routing.ROUTINGS)
def test_computing_only_the_chosen_tiles_is_masking_the_others(name, settings):
  config, sparse, params, x = layer(routing=name, **settings)
  y_sparse, info_sparse = call(sparse, params, x)
  y_masked, info_masked = call(ffn.TriXFFN(config), params, x)
  np.testing.assert_array_equal(info_sparse.tile_NK, info_masked.tile_NK)
  assert relative_error(y_masked, y_sparse) <= 1e-6


@pytest.mark.parametrize('settings', [{}, {'gate': 'one_hot'}, REFERENCE])
def test_a_differentiated_and_sharded_layer_is_the_evaluated_one(settings):
  """Bit-identical tiles, outputs to 1e-6: compilation for training must not change what a layer computes."""
  _, module, params, x = layer(N=64, **settings)

  def loss(params, x):
    y, info = apply(module, {'params': params}, x)
    return jax.lax.psum(jnp.sum(jnp.sin(y)), 'data'), (y, info.tile_NK)

  mesh, spec = jax.sharding.Mesh(np.array(jax.local_devices()), ('data',)), jax.sharding.PartitionSpec
  step = jax.shard_map(
    jax.value_and_grad(loss, has_aux=True),
    mesh=mesh,
    in_specs=(spec(), spec('data')),
    out_specs=((spec(), (spec('data'), spec('data'))), spec()),
    check_vma=False,
  )
  (_, (y, tile_NK)), _ = jax.jit(step)(params, x)
  expected, info = call(module, params, x)
  np.testing.assert_array_equal(tile_NK, info.tile_NK)
  assert relative_error(y, expected) <= 1e-6


@pytest.mark.parametrize('settings', [{}, REFERENCE, {'top_k': 2}, {'routing': 'learned'}])
def test_gradients_of_sparse_and_masked_layers_agree(settings):
  config, sparse, params, x = layer(**settings)

  def loss(module):
    return lambda params, x: jnp.sum(jnp.sin(apply(module, {'params': params}, x)[0]))

  got = jax.jit(jax.grad(loss(sparse), (0, 1)))(params, x)
  expected = jax.jit(jax.grad(loss(ffn.TriXFFN(config)), (0, 1)))(params, x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)


def test_a_dense_layer_is_the_sum_of_its_tiles():
  config, module, params, x = layer(sparse=False, routing='dense', gate='one_hot')
  y, _ = call(module, params, x)
  assert relative_error(y, ffn.compute_tile_outputs(x, ffn.quantise_tiles(params, config), config).sum(axis=0)) <= 1e-6


def macs(module, params, x):
  """Multiply-adds of all matrix products, counted in the traced program."""
  traced = jax.make_jaxpr(lambda x: apply(module, {'params': params}, x)[0])(x)
  return sum(map(_macs, traced.jaxpr.eqns))


def test_a_token_pays_for_its_own_tile_only():
  N, D, F = 4096, 32, 256
  _, dense, params, x = layer(sparse=False, routing='dense', gate='one_hot', N=N, d_model=D, d_ff=F, tiles=8)
  route = N * 8 * D
  assert macs(dense, params, x) == 2 * N * D * F + route
  config = dataclasses.replace(dense.config, routing='emergent')
  sparse_macs = macs(ffn.SparseTriXFFN(config), params, x) - route
  assert 2 * N * D * F / 8 <= sparse_macs <= 1.3 * 2 * N * D * F / 8  # Padding to blocks is the difference.


@pytest.mark.parametrize('tiles, top_k, takes_all', [(4, 1, False), (16, 4, False), (128, 1, False), (128, 32, True)])
def test_many_narrow_tiles_are_not_moved_to(tiles, top_k, takes_all):
  config, masked, params, x = layer(sparse=False, d_ff=512, tiles=tiles, top_k=top_k)
  modules = ffn.TriXFFN(config, execute=ffn.compute), masked, ffn.SparseTriXFFN(config)
  taken, all_, chosen = (macs(module, params, x) for module in modules)
  assert all_ != chosen
  assert taken == (all_ if takes_all else chosen)


def _macs(equation):
  inner = [value for value in equation.params.values() if hasattr(value, 'jaxpr') or hasattr(value, 'eqns')]
  total = sum(_macs(e) for j in inner for e in getattr(j, 'jaxpr', j).eqns)
  if equation.primitive.name == 'dot_general':
    (contract, _), _ = equation.params['dimension_numbers']
    total += int(np.prod(equation.outvars[0].aval.shape)) * int(
      np.prod([equation.invars[0].aval.shape[axis] for axis in contract])
    )
  return total


def test_zeroing_a_tile_changes_exactly_its_own_tokens():
  config, module, params, x = layer(N=200)
  y, info = call(module, params, x)
  for tile in range(config.tiles):
    y_without, info_without = call(module, {**params, 'down': params['down'].at[tile].set(0)}, x)
    np.testing.assert_array_equal(info.tile_NK, info_without.tile_NK)
    changed = np.any(np.asarray(y != y_without), axis=-1)
    np.testing.assert_array_equal(changed, np.asarray(info.tile_NK)[:, 0] == tile)


@pytest.mark.parametrize('settings', [{}, REFERENCE, {'gate': 'one_hot'}, {'tiles': 16}])
def test_after_init_every_tile_speaks_and_learns(settings):
  config, module, params, x = layer(N=512, **settings)
  assert not np.any(ffn.find_silent_tiles(ffn.quantise_tiles(params, config), config))
  grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(apply(module, {'params': p}, x)[0]))))(params)
  for name in ('up', 'down', 'up_scale') + (() if config.shared_down_scale else ('down_scale',)):
    assert np.all(np.abs(np.asarray(grads[name])).reshape(config.tiles, -1).max(axis=1) > 0), name


def test_a_tile_whose_weights_are_all_below_the_threshold_is_reported_silent():
  config, _, params, _ = layer(**REFERENCE)
  params['up'] = params['up'].at[2].mul(0.02)  # The original's hierarchical tiles, at standard deviation 0.02.
  silent_T = ffn.find_silent_tiles(ffn.quantise_tiles(params, config), config)
  np.testing.assert_array_equal(silent_T, [False, False, True, False])


def test_probabilities_are_the_softmax_of_scores_that_do_not_saturate():
  _, module, params, x = layer()
  info = call(module, params, x)[1]
  step = np.abs(x).max(axis=-1, keepdims=True) / 127
  likelihood = np.exp(info.score_NJ * step / np.sqrt(24))
  np.testing.assert_allclose(info.probability_NJ, likelihood / likelihood.sum(axis=-1, keepdims=True), rtol=1e-5)


def test_routing_gradient_reaches_the_up_projection_through_the_signature():
  _, module, params, x = layer(gate='one_hot')

  def probability_of_tile_0(params):
    return apply(module, {'params': params}, x)[1].probability_NJ[:, 0].mean()

  grad = jax.grad(probability_of_tile_0)(params)
  assert np.all(np.abs(np.asarray(grad['up'])).max(axis=(1, 2)) > 0)
  assert not np.any(grad['down'])


@pytest.mark.parametrize('kind', signatures.KINDS)
@pytest.mark.parametrize('quantiser', ternary.QUANTISERS)
def test_six_patterns_go_to_six_tiles(kind, quantiser):
  rng = np.random.default_rng(0)
  patterns = rng.choice([-1.0, 1.0], (6, 64)).astype(np.float32)
  config, module, params, _ = layer(d_model=64, d_ff=96, tiles=6, signature=kind, quantiser=quantiser)
  params['up'] = signatures.write_signatures(params['up'], jnp.asarray(patterns), quantiser)
  _, info = call(module, params, jnp.asarray(patterns + 0.3 * rng.standard_normal(patterns.shape), jnp.float32))
  np.testing.assert_array_equal(info.tile_NK[:, 0], np.arange(config.tiles))


def test_random_routing_draws_from_its_own_stream_and_first_takes_tile_0():
  _, module, params, x = layer(routing='random', N=400)
  tiles = [
    apply(module, {'params': params}, x, rngs={'routing': jax.random.key(seed)})[1].tile_NK for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(tiles[0], tiles[1])
  assert np.any(tiles[0] != tiles[2])
  np.testing.assert_allclose(routing.load(tiles[0], 4), 0.25, atol=0.08)
  _, module, params, x = layer(routing='first')
  assert not np.any(call(module, params, x)[1].tile_NK)


@pytest.mark.parametrize('routed', ['dense', 'random', 'first'])
def test_weights_trained_with_a_gate_keep_its_probabilities_whoever_chooses(routed):
  config, module, params, x = layer(routing='learned')
  learned = call(module, params, x)[1]
  other = ffn.TriXFFN(dataclasses.replace(config, routing=routed))
  info = call(other, params, x)[1]
  np.testing.assert_array_equal(info.probability_NJ, learned.probability_NJ)
  np.testing.assert_array_equal(info.gate_NK, np.take_along_axis(learned.probability_NJ, info.tile_NK, axis=1))


@pytest.mark.parametrize('sparse', [True, False])
def test_any_leading_shape_no_token_at_all_and_a_wrong_width(sparse):
  _, module, params, x = layer(sparse, N=24)
  assert call(module, params, x[:0])[0].shape == (0, 24)
  y, _ = call(module, params, x)
  y_3d, _ = call(module, params, x.reshape(2, 12, -1))
  np.testing.assert_array_equal(y_3d.reshape(y.shape), y)
  with pytest.raises(ValueError, match='last axis must be 24'):
    apply(module, {'params': params}, x[:, :-1])


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'d_model': 0}, 'd_model = 0'),
    ({'tiles': 5}, r'tiles = 5 does not divide model.d_ff = 48'),
    ({'top_k': 5}, 'from 1 to model.tiles = 4'),
    ({'routing': 'best'}, "'best'; choose one of dense, emergent"),
    ({'gate': 'soft'}, "'soft'"),
    ({'signature': 'mean'}, "'mean'"),
    ({'quantiser': 'x'}, "'x'"),
    ({'activation': 'gelu'}, "'gelu'"),
  ],
)
def test_impossible_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    layer(**settings)
