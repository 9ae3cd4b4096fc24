"""Time a layer's forward and backward pass that computes a token's own tiles, and one that computes all of them.

  python benchmarks/chosen_or_all.py

Tiles share 512 hidden units of a layer with d_model 128, as in the recipe, for 16 x 256 tokens. `chosen` moves rows to
their tiles (`ffn.compute_sparse`). `all` multiplies what a token did not choose by 0 (`ffn.compute_all`). Outputs and
gradients are the same function. Variants take turns in one process on one JAX device. The table gives medians over
rounds, and what `ffn.compute` takes.
"""

import statistics

import variants
from absl import app, flags

from trix_jax.system import host

if __name__ == '__main__':
  host.prepare_cpu()  # Before anything imports JAX.

import jax
import jax.numpy as jnp

from trix_jax.core import ternary
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig

TOKENS, D, UNITS = 4096, 128, 512
SHAPES = ((4, 1), (16, 1), (16, 4), (16, 8), (32, 8), (64, 1), (64, 8), (64, 16), (128, 16), (128, 32), (256, 64))

_ROUNDS = flags.DEFINE_integer('rounds', 7, 'How often to measure each variant.', lower_bound=1)
_JSON = flags.DEFINE_string('json', '', 'File for the results.')


def main(_):
  variants.check_writable(_JSON.value)
  measured = {(shape, kind): passes(*shape, kind) for shape in SHAPES for kind in ('chosen', 'all')}
  seconds = variants.take_turns_here(measured, _ROUNDS.value)
  print(f'{"tiles":>6}{"chosen":>8}{"units a tile":>14}{"ms: chosen":>12}{"all":>8}{"chosen / all":>14}   taken')
  rows = []
  for tiles, top_k in SHAPES:
    chosen, all_ = (1000 * statistics.median(seconds[(tiles, top_k), kind]) for kind in ('chosen', 'all'))
    taken = 'all' if ffn.all_cost_less(config_of(tiles, top_k), top_k) else 'chosen'
    print(
      f'{tiles:>6}{top_k:>8}{UNITS // tiles:>14}{chosen:>12.1f}{all_:>8.1f}{chosen / all_:>14.2f}   {taken}', flush=True
    )
    rows.append(
      {
        'tiles': tiles,
        'top_k': top_k,
        'milliseconds_chosen': round(chosen, 2),
        'milliseconds_all': round(all_, 2),
        'taken': taken,
      }
    )
  variants.write(_JSON.value, rows)


def config_of(tiles: int, top_k: int) -> FFNConfig:
  """Return the config of a layer with gates of 1."""
  return FFNConfig(d_model=D, d_ff=UNITS, tiles=tiles, top_k=top_k, gate='one_hot')


def passes(tiles: int, top_k: int, kind: str):
  """Compile a layer's output and gradients on one device; return a function that computes them."""
  config = config_of(tiles, top_k)
  execute = {'chosen': ffn.compute_sparse, 'all': ffn.compute_all}[kind]
  keys = jax.random.split(jax.random.key(tiles), 3)
  x_ND = jax.random.normal(keys[0], (TOKENS, D))
  params = ffn.TriXFFN(config).init(keys[1], x_ND[:2])['params']
  tile_NK = jnp.argsort(jax.random.uniform(keys[2], (TOKENS, tiles)), axis=-1)[:, :top_k].astype(jnp.int32)

  def loss(params, x_ND, gate_NK, tile_NK):
    q_ND, step_N1 = ternary.quantise_activations(x_ND, config.int8_activations)
    y_ND = execute(q_ND, step_N1, tile_NK, gate_NK, ffn.quantise_tiles(params, config), config)
    return jnp.mean(y_ND**2)

  run = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
  arguments = params, x_ND, jnp.ones((TOKENS, top_k)), tile_NK
  jax.block_until_ready(run(*arguments))
  return lambda: jax.block_until_ready(run(*arguments))


if __name__ == '__main__':
  app.run(main)
