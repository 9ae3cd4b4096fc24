"""Read the arguments that several programs share: folders, and configs by name or by path."""

import pathlib
from typing import Any

import ml_collections
from absl import flags
from ml_collections.config_flags import config_flags

from trix_jax.errors import InputError

flags.disclaim_key_flags()  # The flags that this module defines belong to the program that asks for them.

PACKAGE = pathlib.Path(__file__).parent.parent


def folder_of(flag: flags.FlagHolder) -> pathlib.Path:
  """Return the folder that a flag names. Raise InputError for an empty name, which would mean the current folder."""
  if not flag.value:
    raise InputError(f'--{flag.name} is empty; give the path of a folder')
  return pathlib.Path(flag.value)


def folders_of(flag: flags.FlagHolder) -> list[pathlib.Path]:
  """Return the folders that a flag names, separated by commas. Raise InputError for none, or for an empty name."""
  if not all(flag.value or ['']):
    raise InputError(f'--{flag.name} names no folder; give those of one run or more, separated by commas')
  return [pathlib.Path(name) for name in flag.value]


def shipped_configs() -> dict[str, pathlib.Path]:
  """Find the configs that ship with the package, by name."""
  # A clone has the original folder, and an installed package has a copy of it.
  folders = [folder for folder in (PACKAGE.parent / 'configs', PACKAGE / 'configs') if folder.is_dir()]
  return {path.stem: path for path in sorted(folders[-1].glob('*.py'))} if folders else {}


def define_config(flag_values: flags.FlagValues) -> flags.FlagHolder:
  """Define --config, a shipped config's name or the path of a file, with --config.SETTING for each setting."""
  names = ', '.join(shipped_configs())
  holder = config_flags.DEFINE_config_file(
    'config', None, f'Settings of the run: {names}, or the path of a file like configs/*.py.', flag_values=flag_values
  )
  flag_values['config'].parser = _ConfigParser('config')
  flags.mark_flag_as_required('config', flag_values)
  return holder


def config_of(flag: flags.FlagHolder) -> ml_collections.ConfigDict:
  """Return the value of a config flag. Raise InputError when the file cannot be loaded."""
  try:
    config = flag.value
    lock = getattr(config, 'lock', None)  # A file that failed to load comes back as an object that raises here.
    if lock is None:
      raise InputError(
        f'get_config() of --config gives a {type(config).__name__}; start it from '
        'configuration.default_config(), like the files in configs/'
      )
    lock()
    return config
  except OSError as error:
    # ml_collections chains the reason for every path it tried.
    lines = [line.strip() for line in str(error).splitlines() if '[Errno' in line]
    raise InputError(
      f'cannot load --config: {lines[0] if lines else error}; give one of {", ".join(shipped_configs())}, or the path '
      'of a file'
    ) from error


class _ConfigParser(config_flags.ConfigFileFlagParser):
  """Replace the name of a shipped config by its path."""

  def parse(self, path: str) -> Any:
    found = shipped_configs().get(path, path)
    if not path or pathlib.Path(found).is_dir():
      given = 'is a folder' if path else 'is empty'
      raise InputError(f'--config={path} {given}; give one of {", ".join(shipped_configs())}, or the path of a file')
    return super().parse(str(found))
