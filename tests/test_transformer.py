import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from tiers import fast_first

import xla_kernels
from trix_jax import configuration
from trix_jax.core import attention, layers, ternary
from trix_jax.errors import InputError
from trix_jax.nn import model_config, transformer


def shapes(config, **settings):
  config.model.update(settings)
  model = transformer.TransformerLM(model_config.parse_model(config.model), 65)
  rngs = {'params': jax.random.key(0), 'routing': jax.random.key(0)}
  return jax.eval_shape(lambda: model.init(rngs, jnp.zeros((1, 8), jnp.int32)))['params']


@pytest.mark.parametrize(
  ('routing', 'settings', 'expected'),
  [
    ('emergent', {}, 842_817),
    ('random', {}, 842_817),
    ('dense', {}, 842_817),
    ('learned', {}, 844_881),
    ('emergent', {'layers': 2}, 446_273),
  ],
)
def test_the_reference_form_has_exactly_the_reference_parameters(routing, settings, expected):
  assert transformer.count_parameters(shapes(configuration.reference_config(routing), **settings)) == expected


def test_the_modern_form_is_no_larger():
  assert transformer.count_parameters(shapes(configuration.default_config())) <= 842_817


def small(**settings):
  sizes = {'layers': 2, 'd_model': 16, 'heads': 2, 'd_ff': 32, 'context': 24}
  model = transformer.TransformerLM(model_config.parse_model({**sizes, **settings}), len('abcdefg'))
  token = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 24)), jnp.int32)
  return model, jax.jit(model.init)({'params': jax.random.key(0)}, token)['params'], token


@pytest.mark.parametrize('form', fast_first(model_config.FORMS))
def test_no_character_sees_its_future(form):
  model, params, token = small(form=form)
  # Random values everywhere: what starts at zero, as the convolutions do, would hide a leak.
  leaves, structure = jax.tree.flatten(params)
  params = structure.unflatten(
    [leaf + 0.3 * jax.random.normal(jax.random.key(index), leaf.shape) for index, leaf in enumerate(leaves)]
  )
  logits, changed = (
    jitted.forward(model, params, {}, of)[0] for of in (token, token.at[:, 13].set((token[:, 13] + 1) % 7))
  )
  np.testing.assert_array_equal(logits[:, :13], changed[:, :13])
  assert np.all(np.any(np.asarray(logits[:, 13:] != changed[:, 13:]), axis=-1).any(axis=1))


def test_more_tokens_than_the_context_are_refused():
  model, params, token = small()
  with pytest.raises(InputError, match='25 tokens given to a model of context 24'):
    transformer.apply(model, params, {}, jnp.concatenate([token, token[:, :1]], axis=1))


@pytest.mark.parametrize(('B', 'L', 'heads', 'width'), [(2, 64, 4, 8), (3, 1, 1, 2), (1, 37, 3, 4), (2, 96, 5, 16)])
def test_blockwise_attention_is_attention(B, L, heads, width):
  rng = np.random.default_rng(0)
  q, k, v, upstream = (jnp.asarray(rng.standard_normal((B, L, heads, width)), jnp.float32) for _ in range(4))

  def with_gradients(attend):
    return jax.jit(jax.value_and_grad(lambda q, k, v: jnp.sum(attend(q, k, v) * upstream), (0, 1, 2)))(q, k, v)

  got = with_gradients(attention.blockwise_causal_attention)
  expected = with_gradients(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


def test_a_projection_has_the_gradient_of_a_product():
  rng = np.random.default_rng(0)
  sizes = (3, 5, 8), (8, 6), (3, 5, 6)
  x, kernel, upstream = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in sizes)

  def with_gradients(multiply):
    return jax.value_and_grad(lambda x, kernel: jnp.sum(multiply(x, kernel) * upstream), (0, 1))(x, kernel)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    with_gradients(layers.project),
    with_gradients(jnp.matmul),
  )


def test_a_ternary_projection_is_a_product_of_codes_and_its_gradient_passes_straight_through():
  rng = np.random.default_rng(0)
  sizes = (3, 5, 64), (64, 48), (3, 5, 48)
  x, latent, upstream = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in sizes)
  codes, scale = ternary.ternarise(latent, 'absmean')
  q, step = ternary.quantise_int8(x)

  y, gradient_of = jax.vjp(jax.jit(layers.project_ternary), x, latent)
  packed = xla_kernels.pack(codes.T.astype(jnp.int8))
  expected = xla_kernels.ternary_matmul(x.reshape(-1, 64), packed, jnp.broadcast_to(scale[0], 48))
  np.testing.assert_array_equal(y.reshape(-1, 48), expected)
  x_gradient, latent_gradient = gradient_of(upstream)
  np.testing.assert_allclose(x_gradient, upstream @ (scale * codes).T, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(latent_gradient, jnp.einsum('bld,ble->de', q * step, upstream), rtol=1e-4, atol=1e-4)


def test_rotary_products_depend_on_the_distance_alone():
  rng = np.random.default_rng(0)
  q, k = (jnp.broadcast_to(jnp.asarray(rng.standard_normal(8), jnp.float32), (1, 20, 1, 8)) for _ in range(2))
  product = np.einsum('qd,kd->qk', attention.rotary(q)[0, :, 0], attention.rotary(k)[0, :, 0])
  for distance in range(20):
    np.testing.assert_allclose(np.diagonal(product, -distance), product[distance, 0], rtol=1e-3, atol=1e-4)


def test_next_token_loss_is_the_negative_log_probability():
  logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
  loss = transformer.next_token_loss(logits, jnp.array([[1, 2]]))
  np.testing.assert_allclose(loss, [[-np.log(0.25), -np.log(0.8)]], rtol=1e-6)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'heads': 3}, 'heads = 3 does not divide'),
    ({'d_model': 0}, 'd_model = 0'),
    ({'dropout': 1.0}, 'dropout = 1.0'),
    ({'form': 'old'}, "'old'; choose one of reference, modern"),
    ({'d_model': 6, 'heads': 2}, 'even width'),
  ],
)
def test_impossible_settings_are_refused(settings, message):
  with pytest.raises(InputError, match=message):
    small(**settings)


@pytest.mark.parametrize(('shape', 'rate', 'dropped'), [((100, 101), 0.1, 26 / 256), ((64, 65), 0.999, 255 / 256)])
def test_dropout_zeroes_its_share_and_keeps_the_mean(shape, rate, dropped):
  y = np.asarray(layers.dropout(jnp.ones(shape), rate, jax.random.key(0)))
  assert np.mean(y == 0) == pytest.approx(dropped, abs=0.01)
  np.testing.assert_allclose(y[y != 0], 1 / (1 - dropped), rtol=1e-6)
  assert not np.array_equal(y, layers.dropout(jnp.ones(shape), rate, jax.random.key(1)))
