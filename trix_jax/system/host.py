"""Prepare the machine for JAX. This module does not import JAX, so that a program can call it first."""

import contextlib
import os
import pathlib
import platform
import signal
import sys
import types
from collections.abc import Callable

# A training step allocates hundreds of megabytes and frees them again. With glibc's defaults each step returns them to
# the kernel and faults them in again, 4 KiB at a time. That costs a quarter to a third of the step
# (benchmarks/train_speed.py).
ALLOCATOR = 'glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736'


# Variables whose mistakes show before a program can report them.
_VARIABLES = ('TRIX_KERNEL=', 'JAX_NUM_CPU_DEVICES=')
_last_words: list[Callable[[], None]] = []


def before_leaving(callback: Callable[[], None]) -> None:
  """Register a function to call when Ctrl-C ends the program."""
  _last_words.append(callback)


def _leave(number, _) -> None:
  with contextlib.suppress(Exception):
    for callback in _last_words:
      callback()
    sys.stdout.flush()
  os.write(2, b'\nerror: interrupted\n')
  os._exit(128 + number)


def _explain(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
  """Print one line for a mistake in a variable, such as a TRIX_KERNEL that does not exist, which an import finds."""
  if issubclass(kind, ValueError) and str(error).startswith(_VARIABLES):
    print(f'error: {error}', file=sys.stderr, flush=True)
    os._exit(2)  # As for any bad input; the hook itself would leave with 1.
  else:
    sys.__excepthook__(kind, error, trace)


def explain_mistakes() -> None:
  """Report a mistake in a variable, such as TRIX_KERNEL, in one line, also one that an import finds."""
  sys.excepthook = _explain


def prepare_cpu() -> None:
  """Make JAX's CPU backend fast for training; call it first in a program, before JAX is imported.

  From here on Ctrl-C ends the program at once, unless the program sets its own handler. XLA's threads and callbacks
  survive neither an asynchronous exception nor the shutdown of the interpreter.

  It splits the host into one JAX device a core. An operation spread over all cores waits for the slowest core at each
  step; a batch spread over devices does not. Set JAX_NUM_CPU_DEVICES yourself to avoid this.

  It turns JAX_ENABLE_X64 off, since parameters and results of a run are float32.

  On Linux it restarts the program once, with settings that make glibc keep its memory and use huge pages. Set
  GLIBC_TUNABLES yourself to avoid this.
  """
  signal.signal(signal.SIGINT, _leave)
  explain_mistakes()
  if sys.platform == 'linux' and 'GLIBC_TUNABLES' not in os.environ:
    os.environ['GLIBC_TUNABLES'] = ALLOCATOR
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
  devices = os.environ.setdefault('JAX_NUM_CPU_DEVICES', str(cores))
  if not (devices.isdecimal() and int(devices)):
    raise ValueError(f'JAX_NUM_CPU_DEVICES={devices} is no number of devices; set it to 1 or more, or leave it out')
  os.environ['JAX_ENABLE_X64'] = '0'


def processor() -> str:
  """Return the name of the CPU, with family and model if known, because generations may share a name."""
  fields: dict[str, str] = {}
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      name, _, value = line.partition(':')
      fields.setdefault(name.strip(), value.strip())
  if 'model name' not in fields:
    return platform.processor() or platform.machine()
  generation = f' (family {fields["cpu family"]}, model {fields["model"]})' if 'cpu family' in fields else ''
  return fields['model name'] + generation
