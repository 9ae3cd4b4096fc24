"""Other trained models that a run learns from."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trix_jax.nn import transformer
from trix_jax.training import naming


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A trained model whose predictions a student learns from (Hinton et al., arXiv 1503.02531)."""

  model: transformer.TransformerLM
  params: Any
  routing_state: Any

  def cross_entropy(self, logits_BLV: jax.Array, token_BL: jax.Array) -> jax.Array:
    """Return the cross-entropy of the student's predictions under the teacher's, mean over characters, in nats."""
    teacher_BLV, _ = transformer.apply(self.model, self.params, self.routing_state, token_BL)
    return -jnp.mean(jnp.sum(jax.nn.softmax(teacher_BLV) * jax.nn.log_softmax(logits_BLV), axis=-1))


class Others(NamedTuple):
  """The other models of a run.

  Attributes:
    teacher: whose predictions the model learns, of the distillation loss; None without one.
    host: whose tiles new tiles are told from, of the naming loss; None without one.
  """

  teacher: Teacher | None = None
  host: list[naming.HostLayer] | None = None


NO_OTHERS = Others()
