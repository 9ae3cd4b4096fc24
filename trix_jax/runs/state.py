"""The whole state of a run between two steps: what a checkpoint holds."""

from typing import Any

import jax
from flax import struct


@struct.dataclass
class TrainState:
  """The state of a run.

  Attributes:
    step: int32, steps done.
    params: trained parameters.
    opt_state: state of the optimiser.
    routing_state: the `routing` collection (balance biases, indexes); an empty dict for models without routing state.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  routing_state: Any
