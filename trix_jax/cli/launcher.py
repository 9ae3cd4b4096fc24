"""What the command lines share: one line for a user's mistake, and quiet libraries."""

import io
import os
import pathlib
import signal
import sys
from collections.abc import Callable

import jax
import ml_collections
from absl import app, flags, logging

from trix_jax.errors import InputError, TrainingStopped

_NO_MEMORY = 'not enough memory: {}; choose a smaller batch or model'


def run(main: Callable[[], None]) -> None:
  """Parse flags and call `main()`. Bad input gives one line on stderr and its exit code, 2 for most."""
  logging.set_verbosity(logging.FATAL)  # Orbax logs what it also raises.
  if isinstance(sys.stdout, io.TextIOWrapper):  # A terminal that lacks a character shows its number.
    sys.stdout.reconfigure(errors='backslashreplace')
  app.run(lambda argv: _main(main, argv), flags_parser=_parse)


def folder_of(flag: flags.FlagHolder) -> pathlib.Path:
  """Value of a flag that names a folder; InputError when it is empty, which would be the current folder."""
  if not flag.value:
    raise InputError(f'--{flag.name} is empty; give the path of a folder')
  return pathlib.Path(flag.value)


def folders_of(flag: flags.FlagHolder) -> list[pathlib.Path]:
  """Value of a flag that names folders, separated by commas; InputError when there is none, or an empty name."""
  if not all(flag.value or ['']):
    raise InputError(f'--{flag.name} names no folder; give one or more that train.py wrote, separated by commas')
  return [pathlib.Path(name) for name in flag.value]


def config_of(flag: flags.FlagHolder) -> ml_collections.ConfigDict:
  """Value of a config-file flag; InputError when the file cannot be loaded."""
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
    raise InputError(f'cannot load --config: {lines[0] if lines else error}; give a file in configs/') from error


def _main(main, argv):
  if len(argv) > 1:
    _fail(f'unexpected argument {argv[1]!r}; settings are given as --name=value', 2)
  try:
    main()
  except InputError as error:
    _fail(str(error), error.exit_code)
  except TrainingStopped as stopped:
    _fail(str(stopped), stopped.exit_code)
  except MemoryError as error:
    _fail(_NO_MEMORY.format(_one_line(error)), 1)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    _fail(_NO_MEMORY.format(_one_line(str(error).splitlines()[0])), 1)
  except BrokenPipeError:  # The reader of our output has gone: not a mistake, and nobody is left to tell.
    os._exit(128 + signal.SIGPIPE)
  except OSError as error:  # A full disk, a file system that went away; what is read has its own errors.
    sys.stdout.flush()
    print(
      f'error: cannot write{f" {error.filename}" if error.filename else ""}: {error.strerror or error}; see that '
      'there is room and that it may be written, and run the same command to go on',
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)  # Exit handlers of TensorBoard and Orbax would try to write again, and fill the screen.


def _parse(argv):
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _fail(f'{_one_line(error)}; see {argv[0]} --help', 2)
  # A config file is a program, so loading one can raise anything; ml_collections raises these for an override of a
  # setting that does not exist, or of a wrong type.
  except Exception as error:
    if isinstance(error, (AttributeError, KeyError, TypeError, ValueError)) and 'get_config' not in str(error):
      _fail(f'{_one_line(error)}; trix_jax/configuration.py names every setting', 2)
    _fail(
      f'cannot load --config: {type(error).__name__}: {_one_line(error)}; give a file like those in configs/, '
      'which defines get_config()',
      2,
    )


def _one_line(error: Exception | str) -> str:
  message = error.args[0] if isinstance(error, KeyError) and error.args else error
  return ' '.join(str(message).replace('\\n', ' ').split()).rstrip('.')


def _fail(message: str, exit_code: int):
  print(f'error: {message}', file=sys.stderr, flush=True)
  sys.exit(exit_code)
