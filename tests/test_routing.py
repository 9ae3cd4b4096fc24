import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trix_jax.core import routing
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig


def info_of(scores, tile=None):
  scores = jnp.asarray(scores, jnp.float32)
  tile = routing.select(scores, 1) if tile is None else jnp.asarray(tile)
  return routing.RoutingInfo(
    tile, jnp.ones(tile.shape), scores, jax.nn.softmax(scores), jnp.eye(scores.shape[-1]), scores
  )


@pytest.mark.parametrize('D', [128, 4096])
def test_scores_are_exact_integers(D):
  rng = np.random.default_rng(0)
  q, s = rng.integers(-127, 128, (50, D)), rng.integers(-127, 128, (9, D))
  q[0], s[0] = 127, 127  # The largest sum there is: beyond 2**24 at D = 4096.
  # Sums of one sign come beyond it too, and most of them are no multiple of a power of 2, as that one is.
  q[25:], s[5:] = rng.integers(100, 128, (25, D)), rng.integers(100, 128, (4, D))
  scores = jax.jit(routing.signature_dots)(q.astype(np.float32), s.astype(np.float32))
  np.testing.assert_array_equal(scores, (q.astype(np.int64) @ s.T).astype(np.float32))


def test_lowest_index_wins_ties():
  scores = jnp.array([[1.0, 3, 3, 2], [0, 0, 0, 0], [2, 1, 2, 1]])
  np.testing.assert_array_equal(routing.select(scores, 1), [[1], [0], [0]])
  np.testing.assert_array_equal(routing.select(scores, 2), [[1, 2], [0, 1], [0, 2]])


def test_zeros_of_both_signs_are_equal():
  for top_k in (1, 2):
    np.testing.assert_array_equal(
      jax.jit(routing.select, static_argnums=1)(jnp.array([[-1.0, -0.0, 0.0, 0.0]]), top_k), [[1, 2][:top_k]]
    )


def test_gates_forward_and_backward():
  scores, tile = jnp.array([[0.0, 1.0, 2.0]]), jnp.array([[1]])

  def gate(kind):
    return lambda s: jnp.sum(routing.gates(jax.nn.softmax(s), s, tile, kind))

  p = np.asarray(jax.nn.softmax(scores))[0]
  slope = p[1] * (np.eye(3)[1] - p)  # d p_1 / d score
  assert gate('one_hot')(scores) == 1
  assert gate('probability')(scores) == pytest.approx(p[1])
  for kind in ('one_hot', 'probability'):
    np.testing.assert_allclose(jax.grad(gate(kind))(scores)[0], slope, rtol=1e-5)


def test_load_counts_every_assignment_and_leaves_padding_out():
  tile = jnp.array([[0, 1], [0, 2], [0, 1]])
  np.testing.assert_allclose(routing.load(tile, 4), [3 / 6, 2 / 6, 1 / 6, 0])
  np.testing.assert_allclose(routing.load(tile, 4, jnp.array([1.0, 0, 1])), [1 / 2, 1 / 2, 0, 0])


def test_balance_loss_is_one_when_balanced_and_t_when_collapsed():
  balanced, collapsed = info_of(40 * np.eye(4)), info_of(np.tile([40.0, 0, 0, 0], (8, 1)))
  assert routing.balance_loss(balanced, routing.load(balanced.tile_NK, 4)) == pytest.approx(1)
  assert routing.balance_loss(collapsed, routing.load(collapsed.tile_NK, 4)) == pytest.approx(4)


def imbalanced_layer(**settings):
  """A layer whose tile 0 wants the direction that all inputs share; returns config, params and inputs."""
  config = FFNConfig(d_model=32, d_ff=64, tiles=4, signature='votes', **settings)
  rng = np.random.default_rng(0)
  direction = rng.standard_normal(32)
  x = jnp.asarray(rng.standard_normal((256, 32)) + 0.5 * direction, jnp.float32)
  params = jax.jit(ffn.SparseTriXFFN(config).init)(jax.random.key(0), x)['params']
  params = {**params, 'up': params['up'].at[0].add(0.1 * direction[:, None])}
  return config, params, x


@functools.partial(jax.jit, static_argnums=0)
def route(config, params, x, state):
  return ffn.SparseTriXFFN(config).apply({'params': params, 'routing': state}, x)[1]


def max_load(config, params, x, state=None):
  info = route(config, params, x, state or {})
  return float(routing.load(info.tile_NK, config.tiles).max()), info


def test_a_few_steps_on_the_balance_loss_alone_lower_a_made_imbalance():
  config, params, x = imbalanced_layer()
  before, _ = max_load(config, params, x)
  assert before > 0.6

  def loss(params):
    _, info = ffn.SparseTriXFFN(config).apply({'params': params}, x)
    return routing.balance_loss(info, routing.load(info.tile_NK, 4))

  step = jax.jit(lambda params: jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(loss)(params)))
  for _ in range(30):
    params = step(params)
  assert max_load(config, params, x)[0] < before - 0.2


def test_a_few_bias_updates_alone_lower_a_made_imbalance():
  config, params, x = imbalanced_layer(balance_bias=True)
  state = {'balance_bias': jnp.zeros(4)}
  before, info = max_load(config, params, x, state)
  assert before > 0.6
  for _ in range(40):
    load_T = routing.load(info.tile_NK, 4)
    state = {'balance_bias': routing.update_balance_bias(state['balance_bias'], load_T, jnp.std(info.score_NJ), 0.05)}
    _, info = max_load(config, params, x, state)
  assert float(routing.load(info.tile_NK, 4).max()) < 0.35


def test_the_bias_of_a_balanced_layer_stays():
  for T in (4, 12, 49):  # 1 / 12 in float32 is not the mean of twelve of them, nor 49 * (1 / 49) one.
    load_T = jnp.full(T, 1 / T, jnp.float32)
    np.testing.assert_array_equal(routing.update_balance_bias(jnp.zeros(T), load_T, jnp.float32(1), 0.1), 0)


def test_the_bias_selects_but_does_not_score():
  config, params, x = imbalanced_layer(balance_bias=True)
  _, without = max_load(config, params, x, {'balance_bias': jnp.zeros(4)})
  _, with_bias = max_load(config, params, x, {'balance_bias': jnp.array([0.0, 0.0, 1e6, 0.0])})
  assert np.all(np.asarray(with_bias.tile_NK) == 2)
  np.testing.assert_array_equal(with_bias.probability_NJ, without.probability_NJ)


def test_selection_with_a_bias_is_bit_exact():
  """The order of roundings that a packed kernel follows; dot * scale + bias would be contracted into an FMA."""
  rng = np.random.default_rng(3)
  q, s = rng.integers(-127, 128, (400, 64)).astype(np.float32), rng.integers(-20, 21, (4, 64)).astype(np.float32)
  scale, bias = np.float32([0.11, 0.13, 0.17, 0]), np.float32([3.3, -100.7, 41.9, 5.0])
  selection = jax.jit(lambda q, s: routing.selection_scores(routing.signature_dots(q, s), scale, bias))(q, s)
  offset = np.float32([bias[0] / scale[0], bias[1] / scale[1], bias[2] / scale[2], 0])
  np.testing.assert_array_equal(selection, (q @ s.T + offset) * scale)


def test_statistics_by_hand():
  p = np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])
  stats = routing.statistics(info_of(np.log(p)))
  np.testing.assert_allclose(stats['tile_load'], [1, 0, 0])
  assert stats['routing_margin'] == pytest.approx(0.25, abs=1e-6)
  assert stats['routing_ties'] == pytest.approx(0.5)
  assert stats['routing_entropy'] == pytest.approx(-np.mean(np.sum(p * np.log(p), axis=1)), rel=1e-5)
  assert stats['signature_zeros'] == pytest.approx(2 / 3)


def test_statistics_leave_padding_out():
  scores = np.random.default_rng(0).standard_normal((10, 3))
  whole = routing.statistics(info_of(scores[:6]))
  padded = routing.statistics(info_of(scores), jnp.array([1.0] * 6 + [0.0] * 4))
  for name in ('tile_load', 'routing_entropy', 'routing_margin', 'routing_ties'):
    np.testing.assert_allclose(padded[name], whole[name], rtol=1e-5)
