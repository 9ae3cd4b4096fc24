"""The recipe that every run of a suite starts from, frozen: configs/stream.py may change, and results stay valid.

A digest of its settings names a run. A setting that came later is not in frozen_recipe.json. It counts only where it
differs from what runs did before it, which the setting records.
"""

import functools
import hashlib
import json
import pathlib

import ml_collections

from trix_jax import configuration

_FILE = pathlib.Path(__file__).with_suffix('.json')


def get_config() -> ml_collections.ConfigDict:
  """Return the recipe with every later setting as runs were before it."""
  return _recipe().copy_and_resolve_references()


def digest_of(config: ml_collections.ConfigDict) -> str:
  """Return the name of a run with this config: 12 hexadecimal digits."""
  settings, frozen = config.to_dict(), frozen_names()
  for name, before in configuration.later_settings().items():
    *sections, last = name.split('.')
    part = functools.reduce(dict.__getitem__, sections, settings)
    if name not in frozen and part[last] == before:
      del part[last]
  settings = {name: value for name, value in settings.items() if value != {}}  # A section may be new altogether.
  text = json.dumps(settings, indent=2, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def frozen_names() -> set[str]:
  """Return the full names of the settings that the frozen recipe has."""
  return set(configuration.name_settings(json.loads(_text())))


@functools.cache
def _text() -> str:
  return _FILE.read_text()


@functools.cache
def _recipe() -> ml_collections.ConfigDict:
  return configuration.to_config_dict(configuration.from_json(_text(), _FILE.name))
