"""Start a program: prepare the CPU, import the program, and report a user's mistake in one line.

  trix train --config=quickstart --workdir=runs/quickstart

This module prepares the CPU before it imports JAX.
"""

import importlib
import importlib.metadata
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from trix_jax.errors import InputError, TrainingStopped
from trix_jax.system import host

PROGRAMS = {
  'train': ('trix_jax.cli.train', 'train a model, or go on with a run'),
  'eval': ('trix_jax.cli.evaluate', 'evaluate a run under every routing'),
  'generate': ('trix_jax.cli.generate', 'write text with a run or an exported file'),
  'carve': ('trix_jax.cli.carve', 'cut a dense run into tiles, without training'),
  'edit': ('trix_jax.cli.edit', 'prune, merge, split, clone, remove or replace tiles, without training'),
  'graft': ('trix_jax.cli.graft', 'add tiles that were trained in other runs to a run'),
  'export': ('trix_jax.cli.export', 'pack a run into one file'),
  'lookup': ('trix_jax.cli.lookup', 'see which tiles answer, and what a tile is'),
}
HELP = ('help', '-h', '-help', '--help', '--helpfull', '--helpshort')
_NO_MEMORY = 'not enough memory: {}; choose a smaller batch or model'


def trix() -> None:
  """Run the program that the first argument names. The shell command `trix` calls this."""
  sys.argv[0] = 'trix'
  name = sys.argv[1] if len(sys.argv) > 1 else 'help'
  if name in HELP:
    print(_usage())
  elif name == '--version':
    try:
      print('trix-jax', importlib.metadata.version('trix-jax'))
    except importlib.metadata.PackageNotFoundError:
      print('trix-jax, not installed')
  elif name not in PROGRAMS:
    _fail(f'there is no program {name!r}; choose one of {", ".join(PROGRAMS)}, or see trix --help', 2)
  else:
    host.prepare_cpu()
    run(PROGRAMS[name][0], [f'trix {name}', *sys.argv[2:]])


def launch(module: str) -> NoReturn:
  """Run a program that a script stands for, such as train.py."""
  host.prepare_cpu()
  run(module, sys.argv)
  sys.exit(0)


def run(module: str, argv: list[str]) -> None:
  """Import a program, parse its flags and call its `main()`. On bad input print one line to stderr and exit."""
  program = importlib.import_module(module)
  if _asks_for_help(argv[1:]):
    _print_help(program.__doc__, program.FLAGS.module_help(program))
    return
  _quieten()
  rest = _parse(program.FLAGS, argv)
  _start_backend()
  _call(program.main, rest)


def run_main(main: Callable[[], None]) -> None:
  """Run the `main` of a script with absl's global flags, such as those in experiments/, in the same way."""
  from absl import app, flags

  import __main__

  if _asks_for_help(sys.argv[1:]):
    _print_help(__main__.__doc__, flags.FLAGS.main_module_help())
    return
  _quieten()
  app.run(lambda rest: _call(main, rest), flags_parser=lambda argv: _parse(flags.FLAGS, argv))


def _asks_for_help(arguments: list[str]) -> bool:
  """Tell whether a flag asks for help, or the first word; `help` further on is the value of a flag."""
  return arguments[:1] == ['help'] or any(argument.startswith('-') and argument in HELP for argument in arguments)


def _print_help(documentation: str | None, described: str) -> None:
  _, found, flags_alone = described.partition(':\n')  # absl puts the module's name above.
  print((documentation or '').strip(), *(['\nFlags:', flags_alone] if found else []), sep='\n')


def _usage() -> str:
  programs = '\n'.join(f'  {name:<10}{what}' for name, (_, what) in PROGRAMS.items())
  return (
    f'usage: trix PROGRAM --flag=value ...\n\n{programs}\n\n'
    'Start with\n\n  trix train --config=quickstart --workdir=runs/quickstart\n\n'
    'which takes minutes and needs no network. trix PROGRAM --help tells what a program does and what it is given.'
  )


def _quieten() -> None:
  from absl import logging

  logging.set_verbosity(logging.FATAL)  # Orbax logs every error that it raises.
  if isinstance(sys.stdout, io.TextIOWrapper):  # A terminal that lacks a character shows its number.
    sys.stdout.reconfigure(errors='backslashreplace')


def _start_backend() -> None:
  """Start JAX's backend. `run_main` does not: a runner would take the GPU's memory from the programs that it starts."""
  import jax

  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    reason = _one_line(error) or 'no such device'
    _fail(f'JAX cannot start with JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")} ({reason}); try cpu', 1)


def _call(main: Callable[[], None], rest: list[str]) -> None:
  import jax

  if len(rest) > 1:
    _fail(f'unexpected argument {rest[1]!r}; settings are given as --name=value', 2)
  try:
    main()
  except (InputError, TrainingStopped) as error:
    _fail(str(error), error.exit_code)
  except MemoryError as error:
    _fail(_NO_MEMORY.format(_one_line(error)), 1)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    _fail(_NO_MEMORY.format(_one_line(str(error).splitlines()[0])), 1)
  except BrokenPipeError:  # The reader of the output has gone. That is no mistake, and a message would reach nobody.
    os._exit(128 + signal.SIGPIPE)
  except OSError as error:  # A disk is full or a file system has gone. Errors of reading have messages of their own.
    sys.stdout.flush()
    print(
      f'error: cannot write{f" {error.filename}" if error.filename else ""}: {error.strerror or error}; see that '
      'there is room and that it may be written, and run the same command to go on',
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)  # Exit handlers of TensorBoard and Orbax would write again and fill the screen with errors.


def _parse(program_flags: Any, argv: list[str]) -> list[str]:
  from absl import flags

  try:
    return program_flags(argv)
  except InputError as error:
    _fail(str(error), error.exit_code)
  except flags.Error as error:
    message = re.sub(r'^flag --(\w+)=None: .* other than None$', r'--\1 is missing', _one_line(error))
    _fail(f'{message}; see {argv[0]} --help', 2)
  # A config file is a program, so loading one can raise anything. ml_collections raises the errors below for an
  # override of an unknown setting, or for a value of a wrong type.
  except Exception as error:
    name = _one_line(error).strip('"\'')
    if close := re.search(r'(\w+)\W+ Did you mean "(\w+)"', name):
      _fail(f'there is no setting {close[1]!r}; did you mean {close[2]!r}?', 2)
    if isinstance(error, AttributeError | KeyError) and name.isidentifier():  # All that ml_collections says.
      _fail(f'there is no setting {name!r}; trix_jax/configuration.py and nn/model_config.py list every setting', 2)
    if isinstance(error, AttributeError | TypeError | ValueError) and 'get_config' not in str(error):
      _fail(f'{_one_line(error)}; trix_jax/configuration.py and nn/model_config.py list every setting', 2)
    # ml_collections puts the traceback of a config that raises into the message; its last line says what is wrong.
    message = _one_line(str(error).strip().splitlines()[-1] if str(error).strip() else error)
    _fail(
      f'cannot load --config: {type(error).__name__}: {message}; give a file like those in configs/, which defines '
      'get_config()',
      2,
    )


def _one_line(error: Exception | str) -> str:
  message = error.args[0] if isinstance(error, KeyError) and error.args else error
  return ' '.join(str(message).replace('\\n', ' ').split()).rstrip('.')


def _fail(message: str, exit_code: int) -> NoReturn:
  print(f'error: {message}', file=sys.stderr, flush=True)
  sys.exit(exit_code)
