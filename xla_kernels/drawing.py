"""Draw tokens from logits, in one call and without a sort.

Letters: B rows of a batch, V entries of the vocabulary.
"""

import jax
import jax.numpy as jnp

from xla_kernels import calls, reference


def draw(logits_BV: jax.Array, uniform_B: jax.Array, temperature_B: jax.Array, top_k_B: jax.Array) -> jax.Array:
  """Draw a token of each row, with the probabilities softmax(logits / temperature) of those that can be drawn.

  It takes the first token whose probability, with those of the tokens before it, is beyond a uniform random number.
  The draw is the same on every instruction set. The reference may draw a neighbour where rounding decides.

  Args:
    logits_BV: float32. A token of -inf is never drawn. A row with NaN or +inf, or of -inf alone, draws any token.
    uniform_B: float32 from 0 to 1, exclusive of 1.
    temperature_B: float32; 0 takes the likeliest token, the first among equals.
    top_k_B: int32, at least 1. Only so many of the highest logits can be drawn, and those that equal the last of them.

  Returns:
    int32 [B].

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
    jax.errors.JaxRuntimeError, ValueError: from the kernel, for a negative temperature, a `top_k` below 1, and a random
      number out of range.
  """
  calls.check_array('draw', 'logits', logits_BV, 'B V', (jnp.float32,))
  B, V = logits_BV.shape
  if not V:
    raise ValueError('draw: logits have no columns')
  calls.check_array('draw', 'uniform', uniform_B, 'B', (jnp.float32,), (B,))
  calls.check_array('draw', 'temperature', temperature_B, 'B', (jnp.float32,), (B,))
  calls.check_array('draw', 'top_k', top_k_B, 'B', (jnp.int32,), (B,))
  token_B: jax.Array = _draw(logits_BV, uniform_B, temperature_B, top_k_B)
  return token_B


@calls.inference_only
def _draw(logits_BV, uniform_B, temperature_B, top_k_B):
  return calls.on_cpu('trix_draw', reference.draw, logits_BV, uniform_B, temperature_B, top_k_B)
