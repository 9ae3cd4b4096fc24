"""A trained model in use: load it, compute logits, write text, save it packed. The kernels compute packed models."""

from trix_jax.inference.language_model import (
  CHUNK,
  MAX_TEMPERATURE,
  LanguageModel,
  as_trained,
  decode_chunk,
  from_checkpoint,
  load,
  prefill,
  save,
)

__all__ = [
  'CHUNK',
  'MAX_TEMPERATURE',
  'LanguageModel',
  'as_trained',
  'decode_chunk',
  'from_checkpoint',
  'load',
  'prefill',
  'save',
]
