"""All settings of a training run, with their defaults. The files in `configs/` override some of them.

Config files and flags change a ConfigDict, which `parse` turns into one frozen `RunConfig` at the door.
"""

import dataclasses
import json
import math
import typing
from typing import Any

import ml_collections

from trix_jax.core import routing
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.nn import controls, model_config
from trix_jax.nn.model_config import NO_CONTROL, ModelConfig
from trix_jax.settings import Check, Relation, at_least_1, choice_of, require, setting, values_before

OPTIMIZERS = ('muon', 'adamw')
ALL, TILES = '', 'tiles'  # Values of `train_only`.
WHERE_SETTINGS_ARE = 'trix_jax/configuration.py and nn/model_config.py list every setting'


@dataclasses.dataclass(frozen=True)
class IndexConfig:
  """How the index of layers with `model.clusters` follows their tiles; see `routing_state.update`.

  Attributes:
    average_decay: of the running averages of signatures, a step.
    rebuild_every: steps between two rebuilds of the clusters.
    freeze_after: after this part of the steps the index no longer changes.
    revive_below: a rebuild turns tiles with less than this part of a fair share into copies; 0 for none.
  """

  average_decay: float = 0.9
  rebuild_every: int = 100
  freeze_after: float = 1.0
  revive_below: float = 0.05


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """The optimiser.

  Attributes:
    name: `muon` for matrices with AdamW for the rest, or `adamw` for all.
    learning_rate: peak; under `muon` for the matrices only.
    adam_learning_rate: peak for the parameters that `muon` leaves to AdamW; `adamw` ignores it.
    adam_b2: decay of AdamW's second moments.
    warmup_fraction: of all steps, linear from 0.
    final_fraction: cosine decay ends at this part of the peak.
    weight_decay: decoupled, of every parameter.
    weight_decay_fraction: weight decay stops after this part of the steps.
    clip_norm: largest norm of the gradient.
  """

  name: str = 'muon'
  learning_rate: float = 2e-2
  adam_learning_rate: float = 2e-3
  adam_b2: float = 0.99
  warmup_fraction: float = 0.02
  final_fraction: float = 0.01
  weight_decay: float = 0.2
  weight_decay_fraction: float = 1.0
  clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """What training minimises beside the cross-entropy.

  Attributes:
    balance_weight: of `routing.balance_loss`, mean over layers.
    diversity_weight: of `signatures.similarity_loss`, mean over layers.
    balance_bias_rate: step size of the loss-free bias; needs `model.balance_bias`.
    teacher: workdir of a trained model; the run also learns from its predictions.
    distillation_weight: of the teacher's predictions; the text has the rest, or all without one.
    naming_weight: of `naming.naming_loss`, mean over layers; for new tiles that train alone.
  """

  balance_weight: float = 0.01
  diversity_weight: float = 0.0
  balance_bias_rate: float = 0.0
  teacher: str = setting('', before='')
  distillation_weight: float = setting(0.5, before=0.5)
  naming_weight: float = setting(0.0, before=0.0)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
  """The course of a run.

  Attributes:
    steps: of the optimiser.
    batch_size: windows in one step.
    accumulation: parts of the batch, computed in turn to save memory; each has its own balance loss.
    log_every, eval_every, checkpoint_every: steps between two lines of metrics, two evaluations, two checkpoints.
    keep_checkpoints: how many of the newest `last` checkpoints stay.
    start_from: workdir whose best parameters the run starts from; by default they are random.
    train_only: `tiles` starts with new tiles, trains them alone and leaves all else as it is in `start_from`.
  """

  steps: int = 1200
  batch_size: int = 16
  accumulation: int = 1
  log_every: int = 20
  eval_every: int = 200
  checkpoint_every: int = 200
  keep_checkpoints: int = setting(2, before=2)
  start_from: str = setting('', before='')
  train_only: str = setting('', before='')


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """A training run. The defaults are the modern form, sparse, on TinyShakespeare.

  Attributes:
    seed: of parameters, batches and dropout.
    corpus: one of `corpora.CORPORA`.
    file: path of a UTF-8 text, for corpus `file`.
    tokenizer: one of `corpora.TOKENIZERS`. Models of `byte` share one vocabulary, whatever their texts.
    model, hierarchy, optimizer, loss, training: the sections. `hierarchy` is for the index; stored runs know this name.
    sample_length: characters written at the end.
    profile: trace five steps of a call, from its eleventh, into WORKDIR/profile.
  """

  seed: int = 0
  corpus: str = 'tinyshakespeare'
  file: str = ''
  tokenizer: str = setting('char', before='char')
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  hierarchy: IndexConfig = dataclasses.field(default_factory=IndexConfig)
  optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
  loss: LossConfig = dataclasses.field(default_factory=LossConfig)
  training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
  sample_length: int = 400
  profile: bool = False

  def __post_init__(self):
    require(self, 'config.', _CHECKS)


_SECTIONS: dict[str, Any] = {
  name: kind for name, kind in typing.get_type_hints(RunConfig).items() if dataclasses.is_dataclass(kind)
}


def _fits_controls_of(wanted: str) -> Relation:
  """Check a model with one of the controls that are for models of the routing `wanted`."""
  names = [
    name
    for name, control in controls.TABLE.items()
    if control.routing == wanted and name != NO_CONTROL and name not in controls.ABLATIONS
  ]
  return Relation(
    lambda c: (
      c.model.control not in names
      or (
        (c.model.ffn.routing, c.model.ffn.clusters, c.sample_length) == (wanted, 0, 0)
        and (c.model.ffn.top_k == 1 or controls.TABLE[c.model.control].any_top_k)
      )
    ),
    f'config.model.control = {{c.model.control}} is for model.routing = {wanted} with model.top_k = 1, '
    'model.clusters = 0 and sample_length = 0, as such a model cannot write',
  )


_CHECKS: tuple[Check | Relation, ...] = (
  choice_of('corpus', among=corpora.CORPORA),
  choice_of('tokenizer', among=corpora.TOKENIZERS),
  choice_of('optimizer.name', among=OPTIMIZERS),
  at_least_1(
    'training.steps',
    'training.batch_size',
    'training.accumulation',
    'training.log_every',
    'training.eval_every',
    'training.checkpoint_every',
    'training.keep_checkpoints',
  ),
  Relation(
    lambda c: c.training.batch_size % c.training.accumulation == 0,
    'config.training.accumulation = {c.training.accumulation} does not divide config.training.batch_size = '
    '{c.training.batch_size}',
  ),
  choice_of('training.train_only', among=(ALL, TILES)),
  Relation(
    lambda c: not c.training.train_only or bool(c.training.start_from and not c.model.ffn.clusters),
    'config.training.train_only = {c.training.train_only} needs the model around the tiles: set training.start_from, '
    'and model.clusters=0',
  ),
  Relation(
    lambda c: not c.loss.naming_weight or (c.training.train_only == TILES and c.model.control == NO_CONTROL),
    'config.loss.naming_weight = {c.loss.naming_weight} is for new tiles: set training.train_only=tiles, and '
    'model.control=none',
  ),
  at_least_1('hierarchy.rebuild_every'),
  Check(
    ('hierarchy.average_decay',),
    lambda decay: decay != 1,
    'averages would never move, so set freeze_after=0 instead',
  ),
  Check(
    (
      'optimizer.warmup_fraction',
      'optimizer.final_fraction',
      'optimizer.weight_decay_fraction',
      'hierarchy.average_decay',
      'hierarchy.freeze_after',
      'hierarchy.revive_below',
      'loss.distillation_weight',
    ),
    lambda part: 0 <= part <= 1,
    'it must be from 0 to 1',
  ),
  Check(
    (
      'optimizer.learning_rate',
      'optimizer.adam_learning_rate',
      'optimizer.weight_decay',
      'loss.balance_weight',
      'loss.diversity_weight',
      'loss.balance_bias_rate',
      'loss.naming_weight',
    ),
    lambda value: 0 <= value < math.inf,
    'it must be finite and not negative',
  ),
  Check(('optimizer.adam_b2',), lambda decay: 0 <= decay < 1, 'it must be at least 0 and less than 1'),
  Check(('optimizer.clip_norm',), lambda norm: norm > 0, 'it must be positive'),
  Relation(
    lambda c: not c.model.ffn.balance_bias or c.model.ffn.way.by_scores,
    'config.model.balance_bias moves scores, which {c.model.ffn.routing} routing does not look at; leave it False',
  ),
  Relation(
    lambda c: (c.loss.balance_bias_rate > 0) == c.model.ffn.balance_bias,
    'config.loss.balance_bias_rate = {c.loss.balance_bias_rate} with config.model.balance_bias = '
    '{c.model.ffn.balance_bias}; set both to use loss-free balancing, or neither',
  ),
  Relation(
    lambda c: c.model.ffn.cluster_bias == 'own' or bool(c.model.ffn.clusters and c.model.ffn.balance_bias),
    'config.model.cluster_bias = {c.model.ffn.cluster_bias} carries the balance biases of tiles behind an index; set '
    'model.clusters and model.balance_bias=True, or leave it own',
  ),
  Check(('seed',), lambda seed: 0 <= seed < 2**31, 'it must be from 0 to 2**31 - 1'),
  Check(('sample_length',), lambda length: length >= 0, 'it must not be negative'),
  choice_of('model.control', among=controls.TABLE),
  Relation(
    lambda c: c.model.control not in controls.ABLATIONS or bool(c.model.ffn.clusters and not c.sample_length),
    'config.model.control = {c.model.control} is for model.clusters > 0 with sample_length = 0, as such a model cannot '
    'write',
  ),
  *map(_fits_controls_of, dict.fromkeys(control.routing for control in controls.TABLE.values())),
  Relation(
    lambda c: not c.model.ffn.way.takes_all or c.model.ffn.gate == 'one_hot',
    'config.model.routing = {c.model.ffn.routing} with config.model.gate = {c.model.ffn.gate}; a dense layer is the '
    'plain sum of its tiles, so set config.model.gate=one_hot',
  ),
)


def default_config() -> ml_collections.ConfigDict:
  """Return the default config for changes by config files and flags. It is locked, so unknown keys fail."""
  return ml_collections.ConfigDict(_DEFAULTS).lock()


def reference_config(routing_name: str) -> ml_collections.ConfigDict:
  """Return the original's model and recipe under one routing: 842,817 parameters, or 844,881 with a learned gate.

  The model has the threshold quantiser, `sign` signatures, the one-hot gate and float activations. AdamW trains it for
  the original's four epochs of every window, 1,028 million characters. The original's balance loss had no gradient;
  this one has.
  """
  config = default_config()
  config.model.update(
    {
      'form': 'reference',
      'routing': routing_name,
      'signature': 'sign',
      'gate': 'one_hot',
      'quantiser': 'threshold',
      'int8_activations': False,
      'activation': 'relu',
      'shared_down_scale': True,
    }
  )
  config.optimizer.update(
    {'name': 'adamw', 'learning_rate': 6e-4, 'adam_b2': 0.999, 'weight_decay': 0.01, 'warmup_fraction': 0.25}
  )
  config.loss.balance_weight = 0.01 if routing.ROUTINGS[routing_name].by_scores else 0.0
  config.training.update(
    {'steps': 15_680, 'batch_size': 256, 'accumulation': 4, 'eval_every': 980, 'checkpoint_every': 490}
  )
  return config


def hierarchical_config(tiles: int, clusters: int, probes: int, top_k: int, d_ff: int) -> ml_collections.ConfigDict:
  """Return the recipe with tiles behind an index. The loss and biases balance both levels."""
  config = default_config()
  config.model.update(
    {'tiles': tiles, 'clusters': clusters, 'probes': probes, 'top_k': top_k, 'd_ff': d_ff, 'balance_bias': True}
  )
  config.loss.balance_bias_rate = 0.02
  config.training.update({'steps': 2400, 'eval_every': 400, 'checkpoint_every': 200})
  return config


def parse(settings: ml_collections.ConfigDict) -> RunConfig:
  """Make the config of a run. Raise InputError for the first setting that is unknown, wrong or contradicts another."""
  values = settings.to_dict()
  _check_names(values)
  for name, value in name_settings(values).items():
    if value is None or (isinstance(value, int) and abs(value) >= 2**31):
      raise InputError(f'config.{name} = {value}; it must be a value, and below 2**31')
  for name, section in _SECTIONS.items():
    values[name] = model_config.parse_model(values[name]) if name == 'model' else section(**values[name])
  return RunConfig(**values)


def _check_names(values: dict[str, Any]) -> None:
  given, known = set(name_settings(values)), set(name_settings(_DEFAULTS))
  if missing := known - given:
    raise InputError(f'the config lacks {", ".join(sorted(missing))}; start it from configuration.default_config()')
  if unknown := given - known:
    raise InputError(f'the config has unknown settings {", ".join(sorted(unknown))}; {WHERE_SETTINGS_ARE}')


def later_settings() -> dict[str, Any]:
  """Return every setting that came later, by its full name, with what runs without it did."""
  sections = {name: values_before(section) for name, section in _SECTIONS.items()}
  sections['model'] = model_config.model_values_before()
  return values_before(RunConfig) | name_settings(sections)


def to_config_dict(config: RunConfig) -> ml_collections.ConfigDict:
  """Return a config as a locked ConfigDict."""
  return ml_collections.ConfigDict(_to_dict(config)).lock()


def to_json(config: RunConfig) -> str:
  """Return the config as indented JSON, keys in alphabetical order."""
  return json.dumps(_to_dict(config), indent=2, sort_keys=True)


def from_json(text: str, source: str) -> RunConfig:
  """Read a config that `to_json` wrote. Raise InputError, which names `source`, for other text."""
  try:
    values = json.loads(text)
    if not isinstance(values, dict):
      raise TypeError('it holds no settings')
    for name, before in later_settings().items():
      *sections, last = name.split('.')
      part = values
      for section in sections:
        part = part.setdefault(section, {})
      part.setdefault(last, before)
    _check_names(values)
    config = default_config()
    config.update(values)
    return parse(config)
  except (InputError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
    raise InputError(
      f'{source} is not a config of this version of trix_jax: {error}; take a run of this version'
    ) from error


def differences(ours: RunConfig, theirs: RunConfig) -> list[str]:
  """Return `name: a -> b` for every setting that differs."""
  named, others = name_settings(_to_dict(ours)), name_settings(_to_dict(theirs))
  return [f'{name}: {others[name]} -> {value}' for name, value in sorted(named.items()) if value != others[name]]


def _to_dict(config: RunConfig) -> dict[str, Any]:
  return {**dataclasses.asdict(config), 'model': model_config.flatten_model(config.model)}


def name_settings(settings: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Return all settings of a dict of dicts by their full names."""
  result: dict[str, Any] = {}
  for name, value in settings.items():
    result |= name_settings(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
  return result


_DEFAULTS = _to_dict(RunConfig())
