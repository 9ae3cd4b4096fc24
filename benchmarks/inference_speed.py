"""Time a token of the whole model and of its feed-forward layer: packed, XLA float32 and PyTorch float32, in one run.

  pip install -e '.[torch]' && python benchmarks/inference_speed.py

The models have two sizes, both in the reference form with random weights: `reference` (4 layers, d_model 128, d_ff 512:
842,817 parameters) and `large` (8 layers, d_model 512, d_ff 2048). The context is 256. The benchmark measures

  decode    one more token for each row, at positions 64 to 192, greedy, in a compiled loop (PyTorch: a Python loop)
  prefill   a prompt of 256 tokens a row
  ffn       one feed-forward layer alone, as a step of a compiled loop (PyTorch: a Python loop)

with 1, 8 and 64 rows (`ffn`: tokens; `torch original`: 1 row). The variants are `packed` (one tile a token), `packed by
token` (a table holds each token's tile) and `packed all tiles`, `xla dense` and `xla sparse` (xla_inference.py), `torch
cached` and `torch original` (torch_inference.py). Each runs in its own process, for --rounds rounds, and the variants
take turns. The table gives medians, and of packed models the share of the roofline that they reach (roofline.py). With
--json it also writes the least and the most.

Memory is the size of the weights, and the growth of the process to its peak. With PyTorch the growth counts from before
the model exists. With JAX it counts from after, and includes compilation. So compare it within one library only. `torch
original` decodes after 128 characters, the middle of the others' positions, because it reads the whole text again for
each character.
"""

import json
import resource
import statistics
import sys
import time

import variants
from absl import app, flags, logging

CONTEXT, VOCABULARY = 256, 65
SIZES = {
  'reference': {'layers': 4, 'd_model': 128, 'heads': 4, 'd_ff': 512},
  'large': {'layers': 8, 'd_model': 512, 'heads': 8, 'd_ff': 2048},
}
TILES = (4, 16, 64)
# The number of tiles does not matter to variants that multiply by all tiles at once.
VARIANTS = tuple(
  f'{size} {name} T={tiles}'
  for size in SIZES
  for name, counts in (
    ('packed', TILES),
    ('packed by token', TILES),
    ('packed all tiles', TILES),
    ('xla dense', TILES[:1]),
    ('xla sparse', TILES),
    ('torch cached', TILES[:1]),
    ('torch original', TILES),
  )
  for tiles in counts
)
ROWS = (1, 8, 64)

_ROUNDS = flags.DEFINE_integer('rounds', 3, 'How often to measure each variant.', lower_bound=1)
_SECONDS = flags.DEFINE_float('seconds', 0.6, 'Approximate seconds for each number in a round.', lower_bound=0)
_ONLY = flags.DEFINE_string('only', '', 'Measure only variants whose name contains this, such as "reference packed".')
_JSON = flags.DEFINE_string('json', '', 'File for the results.')
_VARIANT = flags.DEFINE_enum(
  'variant', None, VARIANTS, 'Measure one variant in this process; used by the benchmark itself.'
)


def main(_):
  logging.set_verbosity(logging.ERROR)
  if _VARIANT.value:
    print(json.dumps(measure(_VARIANT.value)))
    return
  names = variants.installed(name for name in VARIANTS if _ONLY.value in name)
  if not names:
    sys.exit(f'error: --only={_ONLY.value}: no variant is called so; they are {", ".join(VARIANTS)}')
  variants.check_writable(_JSON.value)
  results = variants.take_turns(
    names,
    _ROUNDS.value,
    [f'--seconds={_SECONDS.value}'],
    lambda result: '  '.join(f'{measured} {value:,.1f}' for measured, value in result['microseconds'].items()),
  )
  rows = [row for name in names for row in summary(name, results[name])]
  for row in rows:
    print(
      f'{row["size"]:<11}{row["variant"]:<26}{row["measured"]:<14}{row["microseconds"]:>12,.1f} us'
      f'{row["tokens_per_second"]:>14,.0f} tokens/s'
      + (f'{100 * row["roofline_fraction"]:>6.0f} % of roofline' if 'roofline_fraction' in row else '')
    )
  variants.write(_JSON.value, rows)


def summary(name: str, rounds: list[dict]) -> list[dict]:
  """Return a row for each quantity: median, least and most over the rounds."""
  size, variant = name.split(' ', 1)
  rows = []
  for measured in rounds[0]['microseconds']:
    values = [result['microseconds'][measured] for result in rounds]
    tokens = int(measured.split()[1]) * (CONTEXT if 'prefill' in measured else 1)
    leasts = [result['least'][measured] for result in rounds if measured in result.get('least', {})]
    fraction = {'roofline_fraction': round(statistics.median(leasts) / statistics.median(values), 3)} if leasts else {}
    rows.append(
      {
        'size': size,
        'variant': variant,
        'measured': measured,
        'microseconds': round(statistics.median(values), 3),
        'tokens_per_second': round(tokens / statistics.median(values) * 1e6, 1),
        'min': round(min(values), 3),
        'max': round(max(values), 3),
        **fraction,
        'weight_bytes': rounds[0]['weight_bytes'],
        'peak_growth_bytes': statistics.median_low([result['peak_growth_bytes'] for result in rounds]),
      }
    )
  return rows


def peak_memory() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str) -> dict:
  """Measure µs of one step of each quantity, and bytes."""
  size, variant = name.split(' ', 1)
  variant, tiles = variant.split(' T=')
  return (measure_torch if variant.startswith('torch') else measure_jax)(SIZES[size], variant, int(tiles))


def timed(step, unit: int, prepare=None) -> float:
  """Return the median time of a call in µs, divided by `unit`, after a warm-up call. `prepare` makes a call's input."""

  def arguments():
    return (prepare(),) if prepare else ()

  step(*arguments())
  samples: list[float] = []
  end = time.perf_counter() + _SECONDS.value
  while len(samples) < 2 or (time.perf_counter() < end and len(samples) < 1000):
    used = arguments()
    start = time.perf_counter()
    step(*used)
    samples.append((time.perf_counter() - start) / unit * 1e6)
  return statistics.median(samples)


def measure_torch(size, variant, tiles) -> dict:
  import torch
  from torch_inference import InferenceLM, generate

  torch.manual_seed(0)
  before = peak_memory()
  model = InferenceLM(VOCABULARY, **size, tiles=tiles, context=CONTEXT, style=variant.split()[1]).eval()
  times = {}
  for rows in (
    ROWS if model.style == 'cached' else ROWS[:1]
  ):  # 64 rows of the original would take half a minute a token.
    prompt = torch.zeros(rows, CONTEXT, dtype=torch.long)
    with torch.inference_mode():
      x = torch.randn(rows, 1, size['d_model'])
      ffn = model.blocks[0].ffn
      times[f'ffn {rows}'] = timed(lambda: [ffn(x) for _ in range(20)], 20)  # noqa: B023
      times[f'prefill {rows}'] = timed(lambda: model(prompt, model.empty_cache(rows), 0), 1)  # noqa: B023
      if model.style == 'original':
        times[f'decode {rows}'] = timed(lambda: generate(model, prompt[:, :128], 2), 2)  # noqa: B023
      else:
        cache, token = model.empty_cache(rows), torch.zeros(rows, 1, dtype=torch.long)
        step = lambda: [model(token, cache, position) for position in range(64, 192)]  # noqa: B023, E731
        times[f'decode {rows}'] = timed(step, 128)
  weights = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])
  return {'microseconds': times, 'weight_bytes': weights, 'peak_growth_bytes': peak_memory() - before}


def measure_jax(size, variant, tiles) -> dict:
  import jax
  import jax.numpy as jnp
  import numpy as np
  import roofline
  import xla_inference

  from trix_jax import configuration, inference
  from trix_jax.inference import forward, weights
  from trix_jax.nn import ffn, transformer
  from trix_jax.training.step import init_state

  settings = configuration.reference_config('dense' if 'all tiles' in variant or 'dense' in variant else 'emergent')
  address = 'token' if 'by token' in variant else 'stream'
  settings.model.update({**size, 'tiles': tiles, 'context': CONTEXT, 'address': address})
  config = configuration.parse(settings)
  vocabulary = ''.join(chr(64 + i) for i in range(VOCABULARY))
  params = jax.jit(lambda: init_state(config, transformer.TransformerLM(config.model, len(vocabulary))).params)()
  packed_config = weights.InferenceConfig(config.model, VOCABULARY)
  language_model = inference.LanguageModel(
    packed_config, vocabulary, weights.pack(params, {}, packed_config), forward.PACKED, {}
  )
  if variant.startswith('xla'):
    language_model = xla_inference.model(
      language_model, weights.as_trained(params, {}, config.model), variant.split()[1]
    )
  arrays, computation, packed_config = language_model.arrays, language_model.computation, language_model.config
  del params
  jax.block_until_ready(arrays)

  times, before = {}, peak_memory()
  for rows in ROWS:
    x_ND = jax.random.normal(jax.random.key(0), (rows, size['d_model']))
    tokens = ffn.Tokens(jnp.arange(rows, dtype=jnp.int32) % VOCABULARY, VOCABULARY, x_ND)

    def loop(arrays, x_ND):
      def step(x_ND, _):
        y_ND, _ = computation.apply_tiles(arrays, 'layer_0.ffn', config.model.ffn, x_ND, tokens, None)  # noqa: B023
        return x_ND + 1e-6 * y_ND, None

      return jax.lax.scan(step, x_ND, length=200)[0]

    run = jax.jit(loop)
    times[f'ffn {rows}'] = timed(lambda: jax.block_until_ready(run(arrays, x_ND)), 200)  # noqa: B023

    keys_B = jax.vmap(jax.random.key)(np.arange(rows, dtype=np.uint32))

    def read(length, rows=rows):
      token_BL, lengths = np.zeros((rows, length), np.int32), np.full(rows, length, np.int32)
      return jax.block_until_ready(inference.prefill(computation, packed_config, arrays, token_BL, lengths))

    times[f'prefill {rows}'] = timed(lambda: read(CONTEXT), 1)
    beginning = read(64)

    def write(state, keys_B=keys_B):
      for step in range(0, 128, inference.CHUNK):
        _, state = inference.decode_chunk(
          computation, packed_config, arrays, state, keys_B, np.int32(step), np.float32(0), np.int32(VOCABULARY)
        )
      jax.block_until_ready(state)

    def fresh(beginning=beginning):
      return jax.block_until_ready(jax.tree.map(jnp.copy, beginning))

    times[f'decode {rows}'] = timed(write, 128, fresh)
  grown = peak_memory() - before
  least: dict[str, float] = {}
  if variant.startswith('packed'):
    for rows in ROWS:
      least |= {
        f'prefill {rows}': sum(roofline.least_microseconds(roofline.count_forward(packed_config, rows, CONTEXT))),
        f'decode {rows}': sum(roofline.least_microseconds(roofline.count_forward(packed_config, rows, 1, 128))),
      }
  return {
    'microseconds': times,
    'least': least,
    'weight_bytes': sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)),
    'peak_growth_bytes': grown,
  }


if __name__ == '__main__':
  app.run(main)
