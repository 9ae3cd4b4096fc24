"""The toy task of the original's residual claim ("25 % without, 100 % with"), with tiles that live.

  python experiments/single/residual_toy.py --out=results/residual_toy.json

A linear head behind one layer of 16 tiles in 4 clusters must tell apart points around four centres. The original's
tiles computed nothing. So its layer was the identity with a residual and zero without, and the claim compared a linear
classifier with chance. This program trains the layer with and without its residual, and the head on the bare input,
over seeds. In a second task the class is the parity of two features' signs (XOR), which the head cannot solve alone.
"""

import json
import pathlib
import statistics

from trix_jax.system import host

if __name__ == '__main__':
  host.prepare_cpu()  # Call this before anything imports JAX.

import jax
import jax.numpy as jnp
import optax
from absl import flags

from trix_jax.cli import launcher
from trix_jax.nn import indexed_ffn
from trix_jax.nn.model_config import FFNConfig
from trix_jax.system import files

D, CLASSES, SAMPLES, STEPS = 16, 4, 4096, 500
LAYERS = ('residual', 'no residual', 'no layer')

_OUT = flags.DEFINE_string('out', None, 'JSON file for the results.', required=True)
_SEEDS = flags.DEFINE_integer('seeds', 5, 'Seeds 0 to this, exclusive.', lower_bound=1)


def blobs(key):
  """Draw four well separated clusters of points."""
  centres, labels, noise = jax.random.split(key, 3)
  label_N = jax.random.randint(labels, (SAMPLES,), 0, CLASSES)
  return jax.random.normal(centres, (CLASSES, D))[label_N] + 0.5 * jax.random.normal(noise, (SAMPLES, D)), label_N


def parities(key):
  """Draw points whose class is the parity of two features' signs and that of two more; other features are noise."""
  x_ND = jax.random.normal(key, (SAMPLES, D)).at[:, :4].multiply(3.0)
  positive_N4 = x_ND[:, :4] > 0
  return x_ND, 2 * (positive_N4[:, 0] ^ positive_N4[:, 1]) + (positive_N4[:, 2] ^ positive_N4[:, 3])


TASKS = {'blobs': blobs, 'parities': parities}


def accuracy(task: str, layer: str, seed: int) -> float:
  """Return the share of right answers on points outside the training set."""
  config = FFNConfig(D, 512, 16, clusters=4, probes=2)
  module = (
    indexed_ffn.HierarchicalTriXBlock(config) if layer == 'residual' else (indexed_ffn.HierarchicalTriXFFN(config))
  )
  x_ND, label_N = TASKS[task](jax.random.key(seed))
  train, test = slice(SAMPLES // 2), slice(SAMPLES // 2, None)
  variables = module.init({'params': jax.random.key(seed)}, x_ND[:1])
  params = {'layer': variables['params'], 'head': jnp.zeros((D, CLASSES))}

  def logits(params, x_ND):
    if layer != 'no layer':
      x_ND = module.apply({'params': params['layer'], 'routing': variables['routing']}, x_ND)[0]
    return x_ND @ params['head']

  def loss(params):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x_ND[train]), label_N[train]).mean()

  optimizer = optax.adamw(optax.cosine_decay_schedule(1e-2, STEPS))

  @jax.jit
  def step(params, opt_state):
    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state = optimizer.init(params)
  for _ in range(STEPS):
    params, opt_state = step(params, opt_state)
  return float(jnp.mean(logits(params, x_ND[test]).argmax(axis=-1) == label_N[test]))


def main() -> None:
  out = pathlib.Path(_OUT.value)
  files.check_writable(out)
  rows = []
  for task in TASKS:
    for layer in LAYERS:
      values = [accuracy(task, layer, seed) for seed in range(_SEEDS.value)]
      rows.append({'task': task, 'layer': layer, 'accuracy': values})
      spread = f', standard deviation {100 * statistics.stdev(values):.1f}' if len(values) > 1 else ''
      print(f'{task:<10}{layer:<14}{100 * statistics.mean(values):6.1f} % right{spread}', flush=True)
  files.write_text(out, json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
  launcher.run_main(main)
