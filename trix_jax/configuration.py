"""All settings of a training run, with their defaults. The files in `configs/` override some of them."""

import json
import math
from typing import Any

import ml_collections

from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.nn import controls, transformer

OPTIMIZERS = ('muon', 'adamw')
# Settings that older configs lack, each with the behaviour of runs without it.
LATER = {
  'model.control': 'none',
  'loss.teacher': '',
  'loss.distillation_weight': 0.5,
  'training.keep_checkpoints': 2,
  'training.start_from': '',
}


def default_config() -> ml_collections.ConfigDict:
  """Return the default config: the modern form, sparse, on TinyShakespeare. It is locked, so unknown keys fail."""
  config = ml_collections.ConfigDict(
    {
      'seed': 0,
      'corpus': 'tinyshakespeare',  # One of corpora.CORPORA.
      'file': '',  # Path of a UTF-8 text, for corpus 'file'.
      'model': {  # See transformer.ModelConfig and ffn.FFNConfig.
        'form': 'modern',
        'layers': 4,
        'd_model': 128,
        'heads': 4,
        'context': 256,
        'dropout': 0.1,
        'd_ff': 512,
        'tiles': 4,
        'top_k': 1,
        'routing': 'emergent',
        'signature': 'votes',
        'gate': 'probability',
        'quantiser': 'absmean',
        'int8_activations': True,
        'activation': 'relu_squared',
        'shared_down_scale': False,
        'balance_bias': False,
        'keep_ratio': 0.0,
        'clusters': 0,
        'probes': 1,
        'control': 'none',  # For experiments; see controls.py.
      },
      'hierarchy': {  # Of the index, with model.clusters; see routing_state.updated.
        'average_decay': 0.9,  # Of the running averages of signatures, a step.
        'rebuild_every': 100,  # Steps between two rebuilds of the clusters.
        'freeze_after': 1.0,  # After this part of the steps the index no longer changes.
        'revive_below': 0.05,  # A rebuild turns tiles with less than this part of a fair share into copies.
      },
      'optimizer': {
        'name': 'muon',  # 'muon' for matrices with AdamW for the rest, or 'adamw' for all.
        'learning_rate': 2e-2,  # Peak; under 'muon' for the matrices only.
        'adam_learning_rate': 2e-3,  # Peak for the parameters that 'muon' leaves to AdamW; 'adamw' ignores it.
        'adam_b2': 0.99,
        'warmup_fraction': 0.02,  # Of all steps, linear from 0.
        'final_fraction': 0.01,  # Cosine decay ends at this part of the peak.
        'weight_decay': 0.2,  # Decoupled, of every parameter.
        'weight_decay_fraction': 1.0,  # Weight decay stops after this part of the steps.
        'clip_norm': 1.0,
      },
      'loss': {
        'balance_weight': 0.01,  # Of routing.balance_loss, mean over layers.
        'diversity_weight': 0.0,  # Of signatures.similarity_loss, mean over layers.
        'balance_bias_rate': 0.0,  # Step size of the loss-free bias; needs model.balance_bias.
        'teacher': '',  # Workdir of a trained model; the run also learns from its predictions.
        'distillation_weight': 0.5,  # Weight of the teacher's predictions; the text has the rest, or all without one.
      },
      'training': {
        'steps': 1200,
        'batch_size': 16,  # Windows in one optimizer step.
        'accumulation': 1,  # Parts of the batch, computed in turn to save memory; each has its own balance loss.
        'log_every': 20,
        'eval_every': 200,
        'checkpoint_every': 200,
        'keep_checkpoints': 2,  # How many of the newest `last` checkpoints stay.
        'start_from': '',  # Workdir whose best parameters the run starts from; by default they are random.
      },
      'sample_length': 400,  # Characters written at the end.
      'profile': False,  # Trace five steps of a call, from its eleventh, into WORKDIR/profile.
    }
  )
  return config.lock()


def reference_config(routing: str) -> ml_collections.ConfigDict:
  """Return the original's model and recipe under one routing: 842,817 parameters, or 844,881 with a learned gate.

  The model has the threshold quantiser, `sign` signatures, the one-hot gate and float activations. AdamW trains it for
  the original's four epochs of every window, 1,028 million characters. The original's balance loss had no gradient;
  this one has.
  """
  config = default_config()
  config.model.update(
    {
      'form': 'reference',
      'routing': routing,
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
  config.loss.balance_weight = 0.01 if routing in ('emergent', 'learned') else 0.0
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


def validate(config: ml_collections.ConfigDict) -> None:
  """Raise InputError for the first setting that is out of range or contradicts another."""
  settings = _settings(config.to_dict())
  _check_names(settings)
  for name, value in settings.items():
    if value is None or (isinstance(value, int) and abs(value) >= 2**31):
      raise InputError(f'config.{name} = {value}; it must be a value, and below 2**31')
  transformer.model_config(config.model)
  if config.corpus not in corpora.CORPORA:
    raise InputError(f'config.corpus is {config.corpus!r}; choose one of {", ".join(corpora.CORPORA)}')
  if config.optimizer.name not in OPTIMIZERS:
    raise InputError(f'config.optimizer.name is {config.optimizer.name!r}; choose one of {", ".join(OPTIMIZERS)}')
  for name in (
    'steps',
    'batch_size',
    'accumulation',
    'log_every',
    'eval_every',
    'checkpoint_every',
    'keep_checkpoints',
  ):
    if config.training[name] < 1:
      raise InputError(f'config.training.{name} = {config.training[name]}; it must be at least 1')
  if config.training.batch_size % config.training.accumulation:
    raise InputError(
      f'config.training.accumulation = {config.training.accumulation} does not divide '
      f'config.training.batch_size = {config.training.batch_size}'
    )
  if config.hierarchy.rebuild_every < 1:
    raise InputError(f'config.hierarchy.rebuild_every = {config.hierarchy.rebuild_every}; it must be at least 1')
  if config.hierarchy.average_decay == 1:
    raise InputError('config.hierarchy.average_decay = 1.0; averages would never move, so set freeze_after=0 instead')
  for section, name in (
    ('optimizer', 'warmup_fraction'),
    ('optimizer', 'final_fraction'),
    ('optimizer', 'weight_decay_fraction'),
    ('hierarchy', 'average_decay'),
    ('hierarchy', 'freeze_after'),
    ('hierarchy', 'revive_below'),
    ('loss', 'distillation_weight'),
  ):
    if not 0 <= config[section][name] <= 1:
      raise InputError(f'config.{section}.{name} = {config[section][name]}; it must be from 0 to 1')
  for section, name in (
    ('optimizer', 'learning_rate'),
    ('optimizer', 'adam_learning_rate'),
    ('optimizer', 'weight_decay'),
    ('loss', 'balance_weight'),
    ('loss', 'diversity_weight'),
    ('loss', 'balance_bias_rate'),
  ):
    if not 0 <= config[section][name] < math.inf:
      raise InputError(f'config.{section}.{name} = {config[section][name]}; it must be finite and not negative')
  if not 0 <= config.optimizer.adam_b2 < 1:
    raise InputError(f'config.optimizer.adam_b2 = {config.optimizer.adam_b2}; it must be at least 0 and less than 1')
  if not config.optimizer.clip_norm > 0:
    raise InputError(f'config.optimizer.clip_norm = {config.optimizer.clip_norm}; it must be positive')
  if config.model.balance_bias and config.model.routing not in ('emergent', 'learned'):
    raise InputError(
      f'config.model.balance_bias moves scores, which {config.model.routing} routing does not look at; leave it False'
    )
  if (config.loss.balance_bias_rate > 0) != config.model.balance_bias:
    raise InputError(
      f'config.loss.balance_bias_rate = {config.loss.balance_bias_rate} with config.model.balance_bias '
      f'= {config.model.balance_bias}; set both to use loss-free balancing, or neither'
    )
  if not 0 <= config.seed < 2**31:
    raise InputError(f'config.seed = {config.seed}; it must be from 0 to 2**31 - 1')
  if config.sample_length < 0:
    raise InputError(f'config.sample_length = {config.sample_length}; it must not be negative')
  _validate_control(config)
  if config.model.routing == 'dense' and config.model.gate != 'one_hot':
    raise InputError(
      f'config.model.routing = dense with config.model.gate = {config.model.gate}; a dense layer is the '
      'plain sum of its tiles, so set config.model.gate=one_hot'
    )


def _validate_control(config: ml_collections.ConfigDict) -> None:
  control, model = config.model.control, config.model
  if control == controls.NONE:
    return
  if control in controls.ABLATIONS:
    if not model.clusters or config.sample_length:
      raise InputError(
        f'config.model.control = {control} is for model.clusters > 0 with sample_length = 0, as such a '
        'model cannot write'
      )
    return
  wanted = controls.TABLE[control].routing
  if model.routing != wanted or model.clusters or model.top_k != 1 or config.sample_length:
    raise InputError(
      f'config.model.control = {control} is for model.routing = {wanted} with model.top_k = 1, '
      'model.clusters = 0 and sample_length = 0, as such a model cannot write'
    )


def to_json(config: ml_collections.ConfigDict) -> str:
  """Return the config as indented JSON, keys in alphabetical order."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def from_json(text: str, source: str) -> ml_collections.ConfigDict:
  """Read a config that `to_json` wrote. Raise InputError, which names `source`, for other text."""
  config = default_config()
  problem = f'{source} is not a config of this version of trix_jax'
  try:
    values = json.loads(text)
    for name, default in LATER.items():
      section, name = name.split('.')
      values[section].setdefault(name, default)
    _check_names(_settings(values))
    config.update(values)
    validate(config)
  except (InputError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
    raise InputError(f'{problem}: {error}') from error
  return config


def _check_names(settings: dict[str, Any]) -> None:
  given, known = set(settings), set(_settings(default_config().to_dict()))
  if missing := known - given:
    raise InputError(f'the config lacks {", ".join(sorted(missing))}; start it from configuration.default_config()')
  if unknown := given - known:
    raise InputError(
      f'the config has unknown settings {", ".join(sorted(unknown))}; trix_jax/configuration.py names every setting'
    )


def _settings(settings: dict, prefix: str = '') -> dict[str, Any]:
  """Return all settings of a dict of dicts by their full names."""
  result: dict[str, Any] = {}
  for name, value in settings.items():
    result |= _settings(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
  return result


def differences(ours: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict, prefix: str = '') -> list[str]:
  """Return `name: a -> b` for every setting that differs."""
  result = []
  for name, value in sorted(ours.items()):
    other = theirs[name]
    if isinstance(value, ml_collections.ConfigDict):
      result += differences(value, other, f'{prefix}{name}.')
    elif value != other:
      result.append(f'{prefix}{name}: {other} -> {value}')
  return result
