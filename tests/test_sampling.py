import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from trix_jax import sampling
from trix_jax.errors import InputError


class Config:
  context = 5


class Successor(nn.Module):
  """A stand-in for the language model: after token t, t + 1 is likeliest and t + 2 next, modulo 7."""

  config = Config()

  def __call__(self, token_BL, train=False):
    distance = (jnp.arange(7) - token_BL[..., None] - 1) % 7
    return -2.0 * distance, []


def draw(prompt, length=6, **settings):
  return list(sampling.sample(Successor(), {}, {}, np.array(prompt, np.int32), length, **settings))


@pytest.mark.parametrize('prompt', [[3], [0, 1, 3], [6, 5, 4, 3, 2, 1, 0, 3]])  # The last is longer than the context.
def test_the_likeliest_token_follows_the_prompt(prompt):
  assert draw(prompt, temperature=0.0) == [4, 5, 6, 0, 1, 2]
  assert draw(prompt, temperature=1e-40) == [4, 5, 6, 0, 1, 2]


def test_top_k_and_temperature_bound_the_choice():
  steps = np.diff([3, *draw([3], 200, temperature=50.0, top_k=2)]) % 7
  assert set(steps) == {1, 2}
  assert set(np.diff([3, *draw([3], 200, temperature=50.0)]) % 7) == set(range(7))


def test_a_seed_is_a_text():
  assert draw([3], 30, seed=1) == draw([3], 30, seed=1) != draw([3], 30, seed=2)


@pytest.mark.parametrize(('prompt', 'settings', 'message'), [
    ([], {}, 'prompt is empty'), ([1], {'length': -1}, 'length = -1'), ([1], {'top_k': -1}, 'top_k = -1'),
    ([1], {'temperature': float('nan')}, 'temperature = nan'), ([1], {'temperature': -0.1}, 'temperature = -0.1')])
def test_impossible_settings_are_refused(prompt, settings, message):
  with pytest.raises(InputError, match=message):
    draw(prompt, **settings)
