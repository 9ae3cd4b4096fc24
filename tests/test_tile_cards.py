"""What `trix_jax.lookup` says of a model, against the model."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast_first

from trix_jax import configuration
from trix_jax.inspection import tile_cards
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints
from trix_jax.training.step import init_state

VOCABULARY = 'abcdefgh'


def trained(**model_settings):
  """A model with random weights, as if it came out of a workdir."""
  settings = configuration.default_config()
  settings.model.update(
    {'layers': 1, 'd_model': 32, 'heads': 2, 'context': 16, 'd_ff': 64, 'tiles': 8, **model_settings}
  )
  settings.loss.balance_bias_rate = 0.1 * settings.model.balance_bias
  config = configuration.parse(settings)
  model = transformer.TransformerLM(config.model, len(VOCABULARY))
  state = init_state(config, model)
  return checkpoints.Trained(config, model, VOCABULARY, {}, 'best', 0, float('nan'), state.params, state.routing_state)


@pytest.mark.parametrize('settings', fast_first([{}, {'clusters': 2, 'probes': 1}]))
def test_margins_are_those_of_the_tile_that_was_chosen(settings):
  model = trained(balance_bias=True, **settings)
  text = 'abcdefghhgfedcba'
  [unbiased] = tile_cards.look_up(model, text)
  assert np.all(unbiased.margin_L >= 0)
  tile = int(unbiased.tile_LK[0, 0])
  state = dict(model.routing_state['layer_0']['ffn'])
  state['balance_bias'] = jnp.zeros(8).at[tile].set(-1e6)
  biased = dataclasses.replace(model, routing_state={'layer_0': {'ffn': state}})
  [answer] = tile_cards.look_up(biased, text)
  token = np.array([[VOCABULARY.index(c) for c in text]])
  [info] = transformer.apply(model.model, biased.params, biased.routing_state, token)[1]
  probability = np.asarray(info.probability_NJ)
  candidate = np.arange(8)[None] if info.candidate_NJ is None else np.asarray(info.candidate_NJ)
  chosen = candidate == answer.tile_LK[:, :1]
  want = probability[chosen] - np.where(chosen, 0, probability).max(axis=1)
  np.testing.assert_allclose(answer.margin_L, want, rtol=0, atol=1e-6)  # Differences of numbers up to 1.
  assert answer.tile_LK[0, 0] != tile and answer.margin_L[0] < 0


@pytest.mark.slow
def test_a_card_says_when_its_signature_did_not_route():
  tokens = np.arange(40) % 8
  words = 'its signature did not'
  assert words not in tile_cards.format_card(tile_cards.make_card(trained(), 0, 1, tokens))
  assert words in tile_cards.format_card(tile_cards.make_card(trained(routing='learned'), 0, 1, tokens))
