"""What suites measure of a run."""

import json

import numpy as np
import pytest

from experiments import texts
from experiments.measures import measure
from experiments.texts import patterns
from trix_jax import configuration
from trix_jax.errors import InputError
from trix_jax.runs import checkpoints
from trix_jax.training import loop


def test_chance_is_what_unrelated_classes_and_tiles_give():
  rng = np.random.default_rng(0)
  classes, tiles = rng.choice(5, 20_000, p=[0.5, 0.2, 0.2, 0.1, 0]), rng.choice(4, 20_000)

  def table(classes):
    counts = np.zeros((5, 4), int)
    np.add.at(counts, (classes, tiles), 1)
    return counts

  null = measure.null_information(table(classes))
  shuffled = [measure.classes.normalised_mutual_information(table(rng.permutation(classes))) for _ in range(200)]
  assert null['mean'] == pytest.approx(np.mean(shuffled), rel=0.15)
  assert null['mean'] < null['most'] < 0.01


def test_what_cannot_be_measured_is_said_before_anything_is(tmp_path):
  with pytest.raises(InputError, match="unknown measure 'speed'; choose from routings, "):
    measure.main(tmp_path, ['routings', 'speed'], tmp_path / 'measured.json')
  with pytest.raises(InputError, match=r'cannot write .*nowhere'):
    measure.main(tmp_path, ['routings'], tmp_path / 'nowhere' / 'measured.json')


@pytest.mark.slow
def test_every_measure_of_a_small_run(tmp_path):
  texts.write(texts.PATTERNS, tmp_path)
  config = configuration.default_config()
  config.model.update({'layers': 2, 'd_model': 16, 'heads': 2, 'd_ff': 32, 'context': 64})
  config.training.update(
    {'steps': 4, 'batch_size': 2, 'log_every': 1, 'eval_every': 2, 'checkpoint_every': 2, 'keep_checkpoints': 9}
  )
  config.update({'corpus': 'file', 'file': str(tmp_path / 'patterns.txt'), 'sample_length': 0})
  loop.train(config, tmp_path / 'run')
  # A model with tiles that were trained is not carved, and `test_edits_suite` edits one.
  names = [name for name in measure.MEASURES if name not in ('carved', 'edited')]
  result = json.loads(json.dumps(measure.of_run(tmp_path / 'run', names, tmp_path / 'run')))
  trained = checkpoints.load_trained(tmp_path / 'run', 'best')
  validation = trained.corpus().validation
  assert result['loss'] == pytest.approx(trained.validation_loss) and result['routings']['emergent'] == pytest.approx(
    result['loss'], rel=1e-6
  )
  assert result['tokens'] == result['tokens_of_run'] == 4 * 2 * 64
  # The passage is the validation text, and each layer's tiles are those that its characters go to.
  text = ''.join(trained.vocabulary[token] for token in validation)
  assert text.startswith(result['passage']['text']) and len(result['passage']['text']) == measure.PASSAGE
  tile_YNK = measure.chosen_tiles(trained, validation)
  np.testing.assert_array_equal(result['passage']['tiles'], tile_YNK[:, : measure.PASSAGE, 0])
  # Every character of the whole windows counts once, under the kind of its own line.
  kinds = patterns.kinds()[-len(validation) :]
  assert patterns.text().endswith(text)
  for layer in (0, 1):
    counts = np.array(result['patterns']['counts'][layer])
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(kinds[: tile_YNK.shape[1]], minlength=6))
    np.testing.assert_array_equal(
      counts[2], np.bincount(tile_YNK[layer, kinds[: tile_YNK.shape[1]] == 2, 0], minlength=4)
    )
  [pair] = result['stability']
  assert (pair['from'], pair['to']) == (2, 4) and all(0 <= changed < 1 for changed in pair['changed'])
  assert np.shape(result['signatures']) == (2, 4, 16) and result['fitted_gate'] > 0
  # A model stands in for itself at no loss, and its routing takes the best tile as often as its table says.
  assert [of['pairs']['plain_signatures']['matched'] for of in result['stand_ins']] == pytest.approx([0, 0], abs=1e-5)
  for of in result['best_tiles']:
    assert of['ways']['routed']['loss'] == pytest.approx(of['routed'], rel=1e-4)
    assert of['oracle'] <= min(way['loss'] for way in of['ways'].values())
  assert [len(of['removed']) for of in result['readings']['tiles']] == [4, 4]
