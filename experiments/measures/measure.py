"""Measure a finished run: `python -m experiments.measures.measure --workdir=W --measures=routings --json=FILE`.

The runner calls this in a separate process, whose end frees the run's memory.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trix_jax.system import host

if __name__ == '__main__':
  host.prepare_cpu()  # Call this before anything imports JAX.

import scipy.stats
from absl import flags

from experiments.measures import best_tiles, carved, edited, grafted, readings, stand_ins
from experiments.texts import patterns
from trix_jax.cli import arguments, launcher
from trix_jax.configuration import RunConfig
from trix_jax.errors import InputError
from trix_jax.evaluation import classes, tables
from trix_jax.evaluation.evaluator import Evaluator, change_routing, evaluate_routings, record_tiles
from trix_jax.inspection import gate_fitting
from trix_jax.nn import ffn, transformer
from trix_jax.nn.model_config import ModelConfig
from trix_jax.runs import checkpoints, metrics, workdirs
from trix_jax.system import files

# Points of a curve, characters of the passage, tables drawn for the null, steps of fitting a gate.
POINTS, PASSAGE, DRAWS, GATE_STEPS = 40, 600, 200, 300


def basics(trained: checkpoints.Trained, workdir) -> dict[str, Any]:
  """Measure what every run has: its best validation loss, its curves, and the course of load and diversity."""
  train, validation = (metrics.read_metrics(workdir, split) for split in ('train', 'validation'))
  best = min(validation, key=lambda row: row['loss'])

  def curve(rows, name):
    rows = rows[:-1][:: max(1, len(rows) // POINTS)] + rows[-1:]
    return [[row['step'], np.round(row[name], 4).tolist()] for row in rows]

  few_tiles = trained.model.config.ffn.tiles <= tables.MOST_TILES
  return {
    'loss': best['loss'],
    'perplexity': best['perplexity'],
    'step': best['step'],
    'dead_tiles': best['dead_tiles'],
    'tile_load': np.round(best['tile_load'], 5).tolist(),
    'parameters': trained.run['parameters'],
    'routing_state': trained.run['routing_state'],
    'tokens': _tokens(trained.config, trained.config.training.steps),
    'tokens_of_run': _own_tokens(trained.config, trained.config.training.steps),
    'curves': {
      'train_loss': curve(train, 'loss'),
      'validation_loss': curve(validation, 'loss'),
      'diversity': curve(train, 'signature_diversity'),
      **({'tile_load': curve(validation, 'tile_load')} if few_tiles else {}),
    },
  }


def _own_tokens(config: RunConfig, steps: int) -> int:
  own: int = steps * config.training.batch_size * config.model.context
  return own


def _tokens(config: RunConfig, steps: int) -> int:
  """Count the characters trained on, with those of the run that it started from, up to that run's best checkpoint."""
  if not config.training.start_from:
    return _own_tokens(config, steps)
  earlier = pathlib.Path(config.training.start_from)
  with checkpoints.Checkpoints(earlier, read_only=True) as saved:
    best = saved.latest_step('best')
  assert best is not None
  return _own_tokens(config, steps) + _tokens(workdirs.read_config(earlier), best)


def routings(trained: checkpoints.Trained) -> dict[str, float]:
  """Return the validation loss of the same weights under every routing."""
  rows = evaluate_routings(
    trained.model.config, trained.vocabulary, trained.corpus().validation, trained.params, trained.routing_state
  )
  return {row['routing']: row['loss'] for row in rows}


def fitted_gate(trained: checkpoints.Trained) -> float:
  """Return the validation loss with a gate fitted to the frozen model."""
  config = change_routing(trained.model.config, 'learned')
  evaluate = Evaluator(config, trained.vocabulary, trained.corpus().validation)
  return evaluate(gate_fitting.fit_gate(trained, GATE_STEPS))['loss']


def specialisation(trained: checkpoints.Trained) -> dict[str, Any]:
  """Return for each layer the tiles of each class of characters, and the value by chance: see `null_information`."""
  row = Evaluator(_routed(trained.model.config), trained.vocabulary, trained.corpus().validation)(
    trained.params, trained.routing_state
  )
  return _against_chance(row['class_tiles'])


def _against_chance(counts_YCT) -> dict[str, Any]:
  counts_YCT = np.asarray(counts_YCT)
  return {
    'counts': counts_YCT.tolist(),
    'information': [classes.normalised_mutual_information(c) for c in counts_YCT],
    'null': [null_information(counts) for counts in counts_YCT],
  }


def null_information(counts_CT: np.ndarray) -> dict[str, float]:
  """Return the normalised mutual information of independent classes and tiles with the same totals.

  It draws random tables with these margins, as a permutation of the tokens' classes does, and gives their mean and
  their largest value.
  """
  counts_CT = counts_CT[counts_CT.sum(axis=1) > 0][:, counts_CT.sum(axis=0) > 0]
  drawn = scipy.stats.random_table(counts_CT.sum(axis=1), counts_CT.sum(axis=0)).rvs(
    DRAWS, random_state=np.random.default_rng(0)
  )
  values = [classes.normalised_mutual_information(table) for table in drawn]
  return {'mean': float(np.mean(values)), 'most': float(np.max(values)), 'draws': DRAWS}


def patterns_to_tiles(trained: checkpoints.Trained) -> dict[str, Any]:
  """Return `specialisation` for the kinds of lines of `patterns.text`, and each kind's main tile in every layer."""
  validation = trained.corpus().validation
  tile_YNK = chosen_tiles(trained, validation)
  kind_N = patterns.kinds()[-len(validation) :][: tile_YNK.shape[1]]  # The validation text is the end of the whole.
  counts = [np.zeros((len(patterns.KINDS), trained.model.config.ffn.tiles), int) for _ in tile_YNK]
  for table, tile_NK in zip(counts, tile_YNK, strict=True):
    np.add.at(table, (kind_N[:, None], tile_NK), 1)
  return {**_against_chance(counts), 'favourite': [np.argmax(table, axis=1).tolist() for table in counts]}


def passage(trained: checkpoints.Trained) -> dict[str, Any]:
  """Return the beginning of the validation text and the first tile of each of its characters, by layer."""
  validation = trained.corpus().validation[: PASSAGE + trained.model.config.context]
  tile_YNK = chosen_tiles(trained, validation)
  text = ''.join(trained.vocabulary[token] for token in validation[: min(PASSAGE, tile_YNK.shape[1])])
  text = text.encode('utf-8', 'replace').decode()  # A byte of a longer character shows as a question mark.
  return {'text': text, 'tiles': tile_YNK[:, : len(text), 0].tolist()}


def signatures(trained: checkpoints.Trained) -> list[list[list[int]]]:
  """Return the signatures of every layer, [T][D] integers."""
  config = trained.model.config
  layers = [ffn.quantise_tiles(trained.params[f'layer_{layer}']['ffn'], config.ffn) for layer in range(config.layers)]
  return [np.asarray(tiles.signatures_TD, int).tolist() for tiles in layers]


def stability(trained: checkpoints.Trained, workdir) -> list[dict[str, Any]]:
  """Return for each layer the share of validation tokens whose first tile changed between consecutive checkpoints."""
  validation = trained.corpus().validation
  rows: list[dict[str, Any]] = []
  before = None
  training = trained.config.training
  with checkpoints.Checkpoints(workdir, read_only=True) as saved:
    steps = saved.steps('last')
  for step in steps:
    if step % training.checkpoint_every and step != training.steps:
      continue  # An interruption saved this checkpoint.
    tile_YN = chosen_tiles(checkpoints.load_trained(workdir, 'last', step), validation)[..., 0]
    if before is not None:
      rows.append({'from': before[0], 'to': step, 'changed': np.mean(before[1] != tile_YN, axis=1).tolist()})
    before = step, tile_YN
  return rows


def chosen_tiles(trained: checkpoints.Trained, token_N: np.ndarray) -> np.ndarray:
  """Return the tiles of every token of a trained model, [layers, N, K]; see `record_tiles`."""
  model = transformer.TransformerLM(_routed(trained.model.config), len(trained.vocabulary))
  return record_tiles(model, trained.params, trained.routing_state, token_N)[0]


def _routed(config: ModelConfig) -> ModelConfig:
  """Return the config to measure. It routes a dense model by its signatures, with one tile for a token."""
  takes_all = config.ffn.way.takes_all
  return change_routing(config, 'emergent') if takes_all else config


MEASURES: dict[str, Callable[..., Any]] = {
  'routings': routings,
  'fitted_gate': fitted_gate,
  'specialisation': specialisation,
  'patterns': patterns_to_tiles,
  'passage': passage,
  'signatures': signatures,
  'stability': stability,
  'carved': carved.carve_in_many_ways,
  'best_tiles': best_tiles.force_every_tile,
  'readings': readings.read_and_hold,
  'stand_ins': stand_ins.let_stand_in,
  'edited': edited.edit_in_many_ways,
  'grafted': grafted.graft_by_many_keys,
}
# For measures whose ways change from time to time, whether a result has all of today's.
WHOLE: dict[str, Callable[[Any], bool]] = {'carved': carved.is_whole}
# Measures that read more than one checkpoint, and those that also take another run, or None.
OF_WORKDIRS = ('stability',)
OF_PAIRS = ('stand_ins',)


def of_run(workdir: pathlib.Path, measures: Sequence[str], partner: pathlib.Path | None = None) -> dict[str, Any]:
  """Return `basics` and these measures of the best checkpoint in a workdir, some with that in a partner's workdir."""
  trained = checkpoints.load_trained(workdir, 'best')
  result = {**basics(trained, workdir), 'measured_at': workdirs.read_commit()}
  for name in measures:
    print(f'measuring {name}', flush=True)
    of: tuple[Any, ...] = (trained, workdir) if name in OF_WORKDIRS else (trained,)
    if name in OF_PAIRS:
      of = (trained, checkpoints.load_trained(partner, 'best') if partner else None)
    result[name] = MEASURES[name](*of)
  return result


def main(
  workdir: pathlib.Path, measures: Sequence[str], path: pathlib.Path, partner: pathlib.Path | None = None
) -> None:
  """Measure a run and write the result. Raise InputError before any work if that is impossible."""
  if unknown := [name for name in measures if name not in MEASURES]:
    raise InputError(f'unknown measure {unknown[0]!r}; choose from {", ".join(MEASURES)}')
  files.check_writable(path)
  files.write_text(path, json.dumps(of_run(workdir, measures, partner)))


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run.', required=True)
  _MEASURES = flags.DEFINE_list('measures', [], 'Measures to take, of experiments.measures.measure.MEASURES.')
  _JSON = flags.DEFINE_string('json', None, 'File for the result.', required=True)
  _PARTNER = flags.DEFINE_string('partner', '', 'Folder of another run, for measures that compare two.')
  launcher.run_main(
    lambda: main(
      arguments.folder_of(_WORKDIR),
      _MEASURES.value,
      pathlib.Path(_JSON.value),
      arguments.folder_of(_PARTNER) if _PARTNER.value else None,
    )
  )
