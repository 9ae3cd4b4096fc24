"""Text from a trained model, one character at a time. No cache: every character costs a pass over the context."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trix_jax import transformer
from trix_jax.errors import InputError


def sample(model: transformer.TransformerLM, params: Any, routing_state: Any, prompt: np.ndarray, length: int,
           temperature: float = 0.8, top_k: int = 0, seed: int = 0) -> Iterator[int]:
  """Tokens that continue a prompt, as they are drawn.

  Args:
    model, params, routing_state: the model.
    prompt: [P] int32 tokens, P >= 1; the last `context` of them are seen.
    length: tokens to draw.
    temperature: divides the logits; 0 takes the likeliest token.
    top_k: draw from the k likeliest tokens only; 0 for all.
    seed: the same seed gives the same text.

  Raises:
    InputError: for an empty prompt or settings out of range.
  """
  if len(prompt) == 0:
    raise InputError('the prompt is empty; give at least one character')
  if length < 0 or top_k < 0:
    raise InputError(f'length = {length}, top_k = {top_k}; they must not be negative')
  if not 0 <= temperature < float('inf'):
    raise InputError(f'temperature = {temperature}; it must be a number of at least 0')
  return _draw(model, params, routing_state, prompt, length, temperature, top_k, seed)


def _draw(model, params, routing_state, prompt, length, temperature, top_k, seed):
  context = model.config.context

  @jax.jit
  def next_token(params, routing_state, window_L, last, key):
    draw_key, routing_key = jax.random.split(key)
    logits, _ = transformer.apply(model, params, routing_state, window_L[None], rngs={'routing': routing_key})
    logits_V = logits[0, last]
    if top_k:
      logits_V = jnp.where(logits_V >= jax.lax.top_k(logits_V, min(top_k, len(logits_V)))[0][-1], logits_V, -jnp.inf)
    if temperature == 0:
      return jnp.argmax(logits_V)
    return jax.random.categorical(draw_key, (logits_V - logits_V.max()) / temperature)

  tokens = list(prompt[-context:])
  for step in range(length):
    # Attention is causal, so what stands behind the last token does not matter.
    window_L = np.zeros(context, np.int32)
    window_L[:len(tokens)] = tokens
    key = jax.random.fold_in(jax.random.key(seed), step)
    token = int(next_token(params, routing_state, window_L, len(tokens) - 1, key))
    yield token
    tokens = [*tokens, token][-context:]
