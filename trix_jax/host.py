"""The machine a program runs on, made ready for JAX. Does not import it, so that a program can call this first."""

import contextlib
import os
import pathlib
import platform
import signal
import sys
import types
from collections.abc import Callable

# A training step allocates hundreds of megabytes and frees them again. With glibc's defaults each step returns them to
# the kernel and faults them in afresh, 4 KiB at a time: a quarter to a third of the step (benchmarks/train_speed.py).
ALLOCATOR = 'glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736'


_last_words: list[Callable[[], None]] = []


def before_leaving(callback: Callable[[], None]) -> None:
  """Call this as well when Ctrl-C ends the program."""
  _last_words.append(callback)


def _leave(number, _) -> None:
  with contextlib.suppress(Exception):
    for callback in _last_words:
      callback()
    sys.stdout.flush()
  os.write(2, b'\nerror: interrupted\n')
  os._exit(128 + number)


def _explain(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
  """Give one line to the mistake that an import can find: a TRIX_KERNEL that there is not."""
  if issubclass(kind, ValueError) and str(error).startswith('TRIX_KERNEL='):
    print(f'error: {error}', file=sys.stderr)
  else:
    sys.__excepthook__(kind, error, trace)


def prepare_cpu() -> None:
  """Make JAX's CPU backend fast for training; call it first in a program, before JAX is imported.

  Ctrl-C ends the program at once from here on, unless it has a handler of its own: XLA's threads and callbacks survive
  neither an exception that comes out of nowhere nor an interpreter that is taken down around them.

  Splits the host into one JAX device a core, because an operation spread over all cores waits for the slowest at each
  step, and a batch spread over devices does not. On Linux, restarts the program once with glibc told to keep its
  memory and to use huge pages. Set JAX_NUM_CPU_DEVICES yourself to do without the first, GLIBC_TUNABLES without the
  second.
  """
  signal.signal(signal.SIGINT, _leave)
  sys.excepthook = _explain
  if sys.platform == 'linux' and 'GLIBC_TUNABLES' not in os.environ:
    os.environ['GLIBC_TUNABLES'] = ALLOCATOR
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
  os.environ.setdefault('JAX_NUM_CPU_DEVICES', str(cores))


def processor() -> str:
  """Name of the CPU, with family and model where it has such: generations may share a name."""
  fields: dict[str, str] = {}
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      name, _, value = line.partition(':')
      fields.setdefault(name.strip(), value.strip())
  if 'model name' not in fields:
    return platform.processor() or platform.machine()
  generation = f' (family {fields["cpu family"]}, model {fields["model"]})' if 'cpu family' in fields else ''
  return fields['model name'] + generation
