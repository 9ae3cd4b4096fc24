"""The devices of a run: a one-axis mesh that splits the batch."""

import jax
import numpy as np

AXIS = 'data'


def data_mesh(batch_size: int) -> jax.sharding.Mesh:
  """Make a mesh of the largest number of local devices that divides the batch."""
  devices = jax.local_devices()
  count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
  return jax.sharding.Mesh(np.array(devices[:count]), (AXIS,))


def replicate(tree, mesh: jax.sharding.Mesh):
  """Copy every array to every device of the mesh."""
  return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def split_batch(array, mesh: jax.sharding.Mesh):
  """Split the leading axis of an array over the devices of the mesh."""
  return jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS)))
