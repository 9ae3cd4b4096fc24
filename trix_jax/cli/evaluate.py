"""Evaluate a trained checkpoint under every routing, dense and sparse, and show what its tiles do.

  trix eval --workdir=runs/quickstart
  trix eval --workdir=runs/quickstart --fit_gate --plot
  trix eval --workdir=runs/quickstart --backend=packed

It prints loss and perplexity on the whole validation split under dense, emergent, random and first-tile routing, and
under the learned gate if the model has one. It prints which characters go to which tile. It writes
WORKDIR/eval_sparse.json. The file's name also tells any other checkpoint, text or option.

--plot draws the results. --backend=packed also packs the model. It shows how much the loss changes and how many tokens
change their tile. --fit_gate fits a linear gate to the frozen model, to compare a learned router with signatures.
"""

import dataclasses
import hashlib
import pathlib

from absl import flags

from trix_jax.cli import arguments
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.evaluation import tables
from trix_jax.evaluation.evaluator import Evaluator, change_routing, evaluate_packed, evaluate_routings
from trix_jax.inference import weights
from trix_jax.inspection import gate_fitting, plots
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run.', required=True, flag_values=FLAGS)
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'best', checkpoints.KINDS, 'Checkpoint to load.', flag_values=FLAGS)
_FILE = flags.DEFINE_string(
  'file', '', 'Evaluate on this UTF-8 text instead of the validation split.', flag_values=FLAGS
)
_FIT_GATE = flags.DEFINE_bool(
  'fit_gate', False, 'Fit a gate to the frozen model and evaluate it as "fitted_gate".', flag_values=FLAGS
)
_GATE_STEPS = flags.DEFINE_integer('gate_steps', 300, 'Steps of fitting the gate.', lower_bound=1, flag_values=FLAGS)
_BACKEND = flags.DEFINE_enum(
  'backend', 'xla', ['xla', 'packed'], 'Compute by XLA alone, or also by packed kernels.', flag_values=FLAGS
)
_ATTENTION = flags.DEFINE_enum(
  'attention', None, weights.PRECISIONS, 'Precision of attention in the packed model.', flag_values=FLAGS
)
_HEAD = flags.DEFINE_enum('head', None, weights.PRECISIONS, 'Precision of the packed output head.', flag_values=FLAGS)
_PLOT = flags.DEFINE_bool(
  'plot', False, 'Draw loss, tile load and tile use beside the JSON, as .png.', flag_values=FLAGS
)


def main() -> None:
  if _GATE_STEPS.present and not _FIT_GATE.value:
    raise InputError('--gate_steps without --fit_gate has no effect; give both')
  if _BACKEND.value == 'xla' and (_ATTENTION.present or _HEAD.present):
    raise InputError('--attention and --head are of the packed model; give --backend=packed too')
  if _FILE.present and not _FILE.value:
    raise InputError('--file is empty; give the path of a text, or leave it out for the validation split')
  if _PLOT.value:
    plots.require_matplotlib()
  workdir = arguments.folder_of(_WORKDIR)
  trained = checkpoints.load_trained(workdir, _CHECKPOINT.value)
  vocabulary = trained.vocabulary
  if _FILE.value:
    tokens = corpora.encode(corpora.read_text(_FILE.value), vocabulary)
  else:
    tokens = trained.corpus().validation
  packed = None
  if _BACKEND.value == 'packed':
    packed = weights.InferenceConfig(trained.model.config, len(vocabulary), _ATTENTION.value or '', _HEAD.value or '')
  fitted = gate_fitting.fit_gate(trained, steps=_GATE_STEPS.value) if _FIT_GATE.value else None
  rows = evaluate_routings(trained.model.config, vocabulary, tokens, trained.params, trained.routing_state)
  packed_rows = (
    [] if packed is None else evaluate_packed(rows, packed, vocabulary, tokens, trained.params, trained.routing_state)
  )
  if fitted:
    config = change_routing(trained.model.config, 'learned')
    rows.append({'routing': 'fitted_gate', 'backend': 'xla', **Evaluator(config, vocabulary, tokens)(fitted)})
  print(
    f'{workdir}, {_CHECKPOINT.value} checkpoint, step {trained.step}, {len(tokens) - 1:,} '
    f'{corpora.name_unit(vocabulary)} of {_FILE.value or "validation text"}'
  )
  print(tables.format_routings(rows, trained.model.config.ffn.routing))
  print(tables.format_tile_use(rows, trained.model.config.ffn.routing))
  if packed is not None:
    print(
      tables.format_packed(
        packed_rows, sum(weights.count_bytes(packed).values()), transformer.count_parameters(trained.params)
      )
    )
  routed = tables.pick_routed(rows, trained.model.config.ffn.routing)
  path = workdir / f'{"_".join(["eval_sparse", *_suffixes(tokens, packed)])}.json'
  try:
    tables.write_rows(path, rows + packed_rows, _CHECKPOINT.value, trained.step, _FILE.value or 'validation')
    if _PLOT.value:
      plots.plot_run(workdir, routed, path.with_suffix('.png'))
  except OSError as error:
    raise InputError(f'cannot write {path}: {error.strerror}; the table above is all there is') from error


def _suffixes(tokens, config: weights.InferenceConfig | None) -> list[str]:
  """List the parts of the result's file name that name the checkpoint, the text and the options."""
  checkpoint = [] if _CHECKPOINT.value == 'best' else [_CHECKPOINT.value]
  text = [pathlib.Path(_FILE.value).stem[:50], hashlib.sha256(tokens.tobytes()).hexdigest()[:8]] if _FILE.value else []
  gate = ['fitted_gate'] if _FIT_GATE.value else []
  if _GATE_STEPS.present:
    gate.append(f'{_GATE_STEPS.value}_steps')
  packed = []
  if config is not None:
    usual = dataclasses.replace(config, attention='', head='')
    chosen = [name for name in ('attention', 'head') if getattr(config, name) != getattr(usual, name)]
    packed = ['packed', *(f'{name}_{getattr(config, name)}' for name in chosen)]
  return checkpoint + text + gate + packed
