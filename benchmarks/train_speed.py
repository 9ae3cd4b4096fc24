"""Measure tokens a second of training the reference model: this project and plain PyTorch, dense and sparse.

  pip install -e '.[torch]' && python benchmarks/train_speed.py

Every variant trains the 842,817-parameter reference model (threshold quantiser, float32, AdamW, no dropout) on the same
batch of 64 x 256 characters. Each runs in its own process for --rounds rounds. The variants take turns, so that a
disturbance of the machine does not hit one of them alone. In all variants except "plain allocator", PyTorch's included,
glibc keeps its memory in huge pages (see trix_jax/system/host.py). The table gives medians, the share of the roofline
that our variants reach (see roofline.py), and the ratios to PyTorch's two sparse loops (see torch_reference.py). --json
writes one row for each variant.
"""

import json
import statistics
import time

import variants
from absl import app, flags, logging

from trix_jax.system import host

CONTEXT, VOCABULARY = 256, 65
BASELINES = ('torch masked T=4', 'torch gathered T=4')
VARIANTS = tuple(
  f'{framework} {compute} T={tiles}'
  for framework, computes in (('torch', ('dense', 'masked', 'gathered')), ('jax', ('dense', 'sparse')))
  for compute in computes
  for tiles in (4, 16, 64)
) + ('torch gathered T=4 plain allocator', 'jax sparse T=4 plain allocator', 'jax sparse T=4 one device')

_ROUNDS = flags.DEFINE_integer('rounds', 3, 'How often to measure each variant.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 6, 'Timed steps of a measurement, after two that are not.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 64, 'Windows of 256 characters in a step.', lower_bound=1)
_JSON = flags.DEFINE_string('json', '', 'File for the results.')
_VARIANT = flags.DEFINE_enum(
  'variant', None, VARIANTS, 'Measure one variant in this process; used by the benchmark itself.'
)


def main(_):
  logging.set_verbosity(logging.ERROR)
  if _VARIANT.value:
    print(json.dumps(measure(_VARIANT.value)))
    return
  variants.check_writable(_JSON.value)
  results = variants.take_turns(
    variants.installed(VARIANTS),
    _ROUNDS.value,
    [f'--steps={_STEPS.value}', f'--batch={_BATCH.value}'],
    lambda result: f'{result["tokens_per_second"]:>10,.0f} tokens/s',
    environment,
  )
  rates = {name: [result['tokens_per_second'] for result in of] for name, of in results.items()}
  medians = {name: statistics.median(values) for name, values in rates.items()}
  fractions = {
    name: medians[name] / statistics.median(result['most'] for result in of)
    for name, of in results.items()
    if 'most' in of[0]
  }
  print(
    f'\n{"batch " + str(_BATCH.value) + " x " + str(CONTEXT):<32}{"tokens/s":>10}{"min":>10}{"max":>10}'
    f'{"of roofline":>13}{"to masked":>12}{"to gathered":>13}'
  )
  for name, values in rates.items():
    ratios = [f'{medians[name] / medians[base]:.2f}x' if base in medians else '-' for base in BASELINES]
    share = f'{100 * fractions[name]:.0f} %' if name in fractions else '-'
    print(
      f'{name:<32}{medians[name]:>10,.0f}{min(values):>10,.0f}{max(values):>10,.0f}{share:>13}{ratios[0]:>12}'
      f'{ratios[1]:>13}'
    )
  variants.write(
    _JSON.value,
    [
      {
        'variant': name,
        'tokens_per_second': medians[name],
        'min': min(values),
        'max': max(values),
        **({'roofline_fraction': round(fractions[name], 3)} if name in fractions else {}),
        'batch': _BATCH.value,
        'context': CONTEXT,
      }
      for name, values in rates.items()
    ],
  )


def environment(name: str) -> dict[str, str]:
  """Return the environment of variants that switch something off."""
  plain = {'GLIBC_TUNABLES': ''} if 'plain allocator' in name else {}
  return {**plain, **({'JAX_NUM_CPU_DEVICES': '1'} if 'one device' in name else {})}


def measure(name: str) -> dict[str, float]:
  """Measure tokens a second; of ours, tell also the most that this machine allows."""
  step = torch_step(name) if name.startswith('torch') else jax_step(name)
  seconds = []
  for index in range(_STEPS.value + 2):
    start = time.perf_counter()
    step()
    if index >= 2:
      seconds.append(time.perf_counter() - start)
  tokens = _BATCH.value * CONTEXT
  rate = {'tokens_per_second': tokens / statistics.median(seconds)}
  return rate if name.startswith('torch') else {**rate, 'most': tokens / least_seconds(name)}


def least_seconds(name: str) -> float:
  import roofline

  return sum(roofline.least_microseconds(roofline.count_training(jax_config(name), VOCABULARY))) / 1e6


def tiles_of(name: str) -> int:
  return int(name.split('T=')[1].split()[0])


def torch_step(name: str):
  import torch
  from torch_reference import ReferenceLM

  torch.manual_seed(0)
  model = ReferenceLM(compute=name.split()[1], tiles=tiles_of(name))
  assert sum(p.numel() for p in model.parameters()) == 842_817
  optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=0.01)
  windows = torch.randint(VOCABULARY, (_BATCH.value, CONTEXT + 1))

  def step():
    optimizer.zero_grad()
    logits, balance = model(windows[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()) + 0.01 * balance
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

  return step


def jax_config(name: str):
  from trix_jax import configuration

  settings = configuration.reference_config('dense' if 'dense' in name else 'emergent')
  settings.model.update({'dropout': 0.0, 'tiles': tiles_of(name)})
  settings.training.update({'batch_size': _BATCH.value, 'accumulation': 1})
  return configuration.parse(settings)


def jax_step(name: str):
  host.prepare_cpu()

  import jax
  import training_step

  from trix_jax.nn import transformer

  train_step, state, windows = training_step.prepare(jax_config(name), VOCABULARY)
  assert transformer.count_parameters(state.params) == 842_817
  index = 0

  def step():
    nonlocal state, index
    state, metrics = train_step(state, windows, index)
    index += 1
    jax.block_until_ready((state, metrics))

  return step


if __name__ == '__main__':
  app.run(main)
