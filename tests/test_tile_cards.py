"""What `trix_jax.lookup` says of a model, against the model."""

import dataclasses

import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from tiers import fast_first

from trix_jax import configuration
from trix_jax.errors import InputError
from trix_jax.inference import forward, language_model, weights
from trix_jax.inspection import address_map, tile_cards
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
  [info] = jitted.forward(model.model, biased.params, biased.routing_state, token)[1]
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


@pytest.mark.parametrize('top_k', fast_first([2, 1]))
def test_a_map_has_the_tiles_that_characters_get_in_a_text(top_k):
  model = trained(address='token', top_k=top_k, layers=2)
  tile_YVK = address_map.map_addresses(model)
  answers = tile_cards.look_up(model, 'hgfedcba')
  np.testing.assert_array_equal(tile_YVK[:, ::-1], [answer.tile_LK for answer in answers])
  blocks = address_map.format_map(tile_YVK, VOCABULARY, 8).split('layer ')[1:]
  for block, tile_VK in zip(blocks, tile_YVK, strict=True):
    rows = [line.split()[2:] for line in block.splitlines()[1:]]
    assert rows == [[VOCABULARY[v] for v in range(8) if tile in tile_VK[v]] for tile in range(8)]


def test_a_map_leaves_out_the_tiles_that_characters_drop():
  model = trained(address='token', top_k=2, keep_ratio=1.0)
  tile_VK, [answer] = address_map.map_addresses(model)[0], tile_cards.look_up(model, VOCABULARY)
  np.testing.assert_array_equal(tile_VK, np.where(answer.gate_LK == 0, -1, answer.tile_LK))
  assert np.all(tile_VK[:, 0] >= 0) and np.any(tile_VK[:, 1] == -1)


@pytest.mark.parametrize('settings', fast_first([{'keep_ratio': 1.0}, {'gate': 'one_hot'}]))
def test_the_map_of_a_packed_model_is_that_of_its_run(settings):
  model = trained(address='token', top_k=2, layers=2, **settings)
  config = weights.InferenceConfig(model.model.config, len(VOCABULARY))
  arrays = weights.pack(model.params, model.routing_state, config)
  packed = language_model.LanguageModel(config, VOCABULARY, arrays, forward.PACKED, {})
  np.testing.assert_array_equal(address_map.read_map(packed), address_map.map_addresses(model))
  by_stream = weights.InferenceConfig(trained().model.config, len(VOCABULARY))
  with pytest.raises(InputError, match='depend on the context'):
    address_map.read_map(dataclasses.replace(packed, config=by_stream))


def test_a_picture_of_a_map_has_the_first_tiles_darkest_and_classes_together():
  figure = address_map.draw_map(np.array([[[0, 2], [1, -1], [2, 0]], [[1, 0], [1, 2], [0, 1]]]), 'b a', 3)
  shades = [ax.images[0].get_array() for ax in figure.axes]
  np.testing.assert_allclose(shades[0], [[2 / 3, 0, 1], [1, 0, 2 / 3], [0, 1, 0]])
  np.testing.assert_allclose(shades[1], [[1, 2 / 3, 0], [2 / 3, 1, 0], [0, 1, 2 / 3]])
  assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ['a', 'b', "' '"]


def test_a_map_names_characters_and_bytes_that_would_not_be_seen():
  shown = address_map.format_map(np.zeros((1, 4, 1), int), ' \na\udcc3', 1)
  assert shown.splitlines()[1].split('0  ')[1] == r"' ' '\n' a '\xc3'"


def test_bytes_beyond_ascii_have_their_numbers_in_a_table():
  answer = tile_cards.Answer(np.array([[1]]), np.array([[1.0]]), np.array([0.25]))
  assert tile_cards.format_answers('\udcc3', [answer]).splitlines()[1] == r"'\xc3'     1  0.250"


def test_a_model_with_other_addresses_in_other_contexts_has_no_map():
  with pytest.raises(InputError, match='depend on the context'):
    address_map.map_addresses(trained())
