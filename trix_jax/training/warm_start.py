"""Load the trained models that a training run uses: its teacher, and a model to start from."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp

from trix_jax.configuration import TILES, RunConfig
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.nn import model_config
from trix_jax.nn.model_config import MAY_DIFFER, ModelConfig
from trix_jax.runs import checkpoints
from trix_jax.runs.state import TrainState
from trix_jax.training import naming
from trix_jax.training.others import Others, Teacher


def load_others(config: RunConfig, corpus: corpora.Corpus) -> Others:
  """Load the other models that a run learns from. Raise InputError for one that does not fit."""
  return Others(load_teacher(config, corpus), load_naming_host(config, corpus))


def load_teacher(config: RunConfig, corpus: corpora.Corpus) -> Teacher | None:
  """Load the model of `config.loss.teacher`, None without one. Raise InputError when it cannot teach this text."""
  if not config.loss.teacher:
    return None
  trained = _trained('loss.teacher', config.loss.teacher, corpus)
  model, name = trained.model.config, f'config.loss.teacher: the model in {config.loss.teacher}'
  if model.ffn.way.is_random:
    raise InputError(f'{name} routes at random, which makes no teacher; give one of another routing')
  if model.context < config.model.context:
    raise InputError(f'{name} has a context of {model.context}; give one of {config.model.context} characters or more')
  return Teacher(trained.model, trained.params, trained.routing_state)


def load_naming_host(config: RunConfig, corpus: corpora.Corpus) -> list[naming.HostLayer] | None:
  """Load what the naming loss knows of the model of `config.training.start_from`, None without this loss.

  Raises:
    InputError: when no tiles can be grafted into that model, or its signatures are asked something else.
  """
  if not config.loss.naming_weight:
    return None
  trained = _trained('training.start_from', config.training.start_from, corpus)
  theirs, ours = trained.config.model.ffn.address, config.model.ffn.address
  if theirs != ours:
    raise InputError(
      f'config.loss.naming_weight compares signatures of both models, and config.model.address is {ours!r} here and '
      f'{theirs!r} in {config.training.start_from}; set config.model.address={theirs}'
    )
  return naming.load_host(trained, config.seed)


def start_from(config: RunConfig, corpus: corpora.Corpus, state: TrainState) -> TrainState:
  """Return the state before the first step, with the parameters of `config.training.start_from`.

  The earlier model's routing state is taken too where both models have the same kind. So the index fits the tiles.
  Where only tiles train, they are new: all else is the earlier model's, and `model.tiles` may differ too.

  Raises:
    InputError: when the earlier run has another vocabulary, or its model differs in a setting outside `MAY_DIFFER`.
  """
  workdir = config.training.start_from
  trained = _trained('training.start_from', workdir, corpus)
  name = f'config.training.start_from: the model in {workdir}'
  check_model(trained.config.model, config, name)
  params = trained.params
  if config.training.train_only == TILES:
    layers = {name: {**params[name], 'ffn': state.params[name]['ffn']} for name in params if name.startswith('layer_')}
    params = {**params, **layers}
  if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, state.params):
    raise InputError(f'{name} has other parameters than this config: a learned gate is trained from the start')
  alike = jax.tree.map(jnp.shape, trained.routing_state) == jax.tree.map(jnp.shape, state.routing_state)
  if config.model.ffn.clusters and not alike:
    raise InputError(
      f'{name} keeps other routing state than this config, and its index would be lost; give one with '
      'the same model.control, model.balance_bias and model.cluster_bias'
    )
  return dataclasses.replace(
    state, params=params, routing_state=trained.routing_state if alike else state.routing_state
  )


def check_model(earlier: ModelConfig, config: RunConfig, name: str) -> None:
  """Raise InputError, which names the earlier model, where it differs in a setting that training cannot change."""
  theirs, ours = (
    {**model_config.flatten_model(model), 'd_ff / tiles': model.ffn.hidden} for model in (earlier, config.model)
  )
  may_differ = (*MAY_DIFFER, *(('tiles', 'd_ff') if config.training.train_only == TILES else ()))
  if other := [
    f'{key} {theirs[key]!r} -> {ours[key]!r}' for key in ours if key not in may_differ and theirs[key] != ours[key]
  ]:
    raise InputError(
      f'{name} is another one ({"; ".join(other)}); give one that differs in nothing but {", ".join(may_differ)}'
    )


def _trained(setting: str, workdir: str, corpus: corpora.Corpus) -> checkpoints.Trained:
  """Load the best checkpoint of a run on a text of the same characters. Raise InputError, which names the setting."""
  try:
    trained = checkpoints.load_trained(pathlib.Path(workdir), 'best')
  except InputError as error:
    raise InputError(f'config.{setting}: {error}') from error
  if trained.vocabulary != corpus.vocabulary:
    raise InputError(
      f'config.{setting}: the model in {workdir} was trained on another vocabulary; give one of the same text, or '
      'train both with tokenizer=byte'
    )
  return trained
