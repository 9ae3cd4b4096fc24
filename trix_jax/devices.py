"""The devices of a run: a one-axis mesh that splits the batch, and a CPU made ready for it."""

import os
import pathlib
import platform
import sys

import jax
import numpy as np

AXIS = 'data'

# A training step allocates hundreds of megabytes and frees them again. With glibc's defaults each step returns them to
# the kernel and faults them in afresh, 4 KiB at a time: half of the step (benchmarks/train_speed.py measures it).
ALLOCATOR = 'glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736'


def prepare_cpu() -> None:
  """Make JAX's CPU backend fast for training; call it first in a program, before JAX is used.

  Splits the host into one JAX device a core, because an operation spread over all cores waits for the slowest at each
  step, and a batch spread over devices does not. On Linux, restarts the program once with glibc told to keep its
  memory and to use huge pages. Set JAX_NUM_CPU_DEVICES or GLIBC_TUNABLES yourself to have neither.
  """
  if sys.platform == 'linux' and 'GLIBC_TUNABLES' not in os.environ:
    os.environ['GLIBC_TUNABLES'] = ALLOCATOR
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
  if 'JAX_NUM_CPU_DEVICES' not in os.environ:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    jax.config.update('jax_num_cpu_devices', cores)


def data_mesh(batch_size: int) -> jax.sharding.Mesh:
  """A mesh of the largest number of local devices that divides the batch."""
  devices = jax.local_devices()
  count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
  return jax.sharding.Mesh(np.array(devices[:count]), (AXIS,))


def replicate(tree, mesh: jax.sharding.Mesh):
  """Every array on every device of the mesh."""
  return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def split_batch(array, mesh: jax.sharding.Mesh):
  """The leading axis of an array split over the devices of the mesh."""
  return jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS)))


def processor() -> str:
  """Name of the CPU."""
  try:
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()
