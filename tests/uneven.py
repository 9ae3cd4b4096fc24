"""Parameters as uneven as trained ones, for tests of models that nobody trained."""

import jax
import jax.numpy as jnp


def make_scales_uneven(params) -> None:
  """Multiply the scales of every layer of tiles by noise, in place."""
  for layer in range(sum(name.startswith('layer_') for name in params)):
    of_layer = params[f'layer_{layer}']['ffn']
    for number, name in enumerate(('up_scale', 'down_scale')):
      noise = jax.random.normal(jax.random.key(10 * layer + number), of_layer[name].shape)
      of_layer[name] = of_layer[name] * jnp.exp(0.3 * noise)
