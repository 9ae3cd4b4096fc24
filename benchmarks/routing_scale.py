"""Measure how the cost of finding a tile grows with the number of tiles, with and without an index.

  python benchmarks/routing_scale.py
  python benchmarks/routing_scale.py --workdir=runs/hierarchical_1024
  python benchmarks/routing_scale.py --workdir=runs/before,runs/after

The benchmark times a lookup alone, as a step of a compiled loop, with d_model 128, for 1 and for 64 tokens. The T =
16 ... 4,096 tiles are in sqrt(T) clusters, rounded down to a power of two. `packed` uses the kernels, and `xla` uses
XLA in float32. Each runs `flat` and with 1, 2 and 4 probed clusters. The cost of a loop with a single tile, which is a
call with nothing to find, is subtracted. The table also gives recall@1, the share of 4,096 random tokens that find the
best of all tiles. Keys are random, so the index cannot exploit any structure.

With a --workdir the kernels do the same for every layer of a trained model, with its keys and the activations of its
validation text, for every number of probes. The table also gives the validation loss for each number of probes. It
gives recall twice: by the keys alone, and for the tile that the layer chooses with its balance biases. Several models
with as many layers and clusters take turns too. Another table then gives each as a ratio to the first, by layers.

All variants take turns for --rounds rounds in one process. The table gives medians.
"""

import dataclasses
import math
import pathlib
import statistics

from trix_jax.system import host

if __name__ == '__main__':
  host.prepare_cpu()  # Before anything imports JAX.

import jax
import jax.numpy as jnp
import variants
from absl import flags

import xla_kernels
from trix_jax.cli import launcher
from trix_jax.core import routing, ternary, tile_index
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import Evaluator
from trix_jax.nn import indexed_ffn
from trix_jax.runs import checkpoints

D, STEPS = 128, 500
TILES = (16, 64, 256, 1024, 4096)
PROBES = (1, 2, 4)
ROWS = (1, 64)

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often to measure each variant.', lower_bound=1)
_WORKDIRS = flags.DEFINE_list('workdir', [], 'Measure the indexes of these trained models instead.')
_JSON = flags.DEFINE_string('json', '', 'File for the results.')


def main() -> None:
  variants.check_writable(_JSON.value)
  if not _WORKDIRS.value:
    rows = scale()
    print(exponents(rows))
  else:
    rows = trained(load_models(_WORKDIRS.value))
  variants.write(_JSON.value, rows)


def scale() -> list[dict]:
  """Return the rows of random keys for every number of tiles."""
  rows: list[dict] = []
  measured: dict = {}
  token_ND = ternary.quantise_int8(jax.random.normal(jax.random.key(1), (4096, D)))[0]
  for tiles in TILES:
    clusters = variants.clusters_of(tiles)
    key_TD = jnp.round(jax.random.normal(jax.random.key(tiles), (tiles, D)) * math.sqrt(32))
    member_CM = tile_index.balanced_kmeans(key_TD, clusters, jax.random.key(0))
    index = tile_index.make_index(key_TD, member_CM, 'votes')
    for probes in (0, *(p for p in PROBES if p <= clusters)):
      found = 1.0 if not probes else float(tile_index.recall(token_ND, index, probes))
      for backend in ('packed', 'xla'):
        for count in ROWS:
          name = (backend, tiles, probes, count)
          measured[name] = loop(backend, index, probes, token_ND[:count])
          rows.append(
            {
              'backend': backend,
              'tiles': tiles,
              'clusters': clusters if probes else 0,
              'probes': probes,
              'tokens': count,
              'recall': round(found, 4),
            }
          )
  for backend in ('packed', 'xla'):
    for count in ROWS:
      measured[backend, 1, 0, count] = loop(backend, one_tile(D), 0, token_ND[:count])
  times = take_turns(measured)
  for row in rows:
    of = times[row['backend'], row['tiles'], row['probes'], row['tokens']]
    empty = times[row['backend'], 1, 0, row['tokens']]
    row.update(summary(of, empty, row['tokens']))
  print(
    f'{"tiles":>6}{"clusters":>10}{"probes":>8}{"tokens":>8}{"recall":>8}   ns a token, an empty call subtracted: '
    f'{"packed":>10}{"xla":>10}'
  )
  for row in rows:
    if row['backend'] == 'packed':
      xla = next(
        other
        for other in rows
        if other['backend'] == 'xla' and all(other[name] == row[name] for name in ('tiles', 'probes', 'tokens'))
      )
      print(
        f'{row["tiles"]:>6}{row["clusters"] or "flat":>10}{row["probes"] or "-":>8}{row["tokens"]:>8}'
        f'{row["recall"]:8.3f}{"":40}{row["nanoseconds"]:>10,.1f}{xla["nanoseconds"]:>10,.1f}'
      )
  return rows


def one_tile(width: int) -> tile_index.Index:
  """Make an index of one tile, with nothing to find."""
  return tile_index.make_index(jnp.ones((1, width)), jnp.zeros((1, 1), jnp.int32), 'votes')


def loop(backend: str, index: tile_index.Index, probes: int, x_ND: jax.Array):
  """Compile a loop of `STEPS` lookups of these tokens; `probes` is 0 to score all tiles."""
  in_order = index.member_CM if probes else jnp.arange(len(index.key_TD))
  signatures = xla_kernels.pack_int8(index.key_TD[in_order].astype(jnp.int8))
  packed_index = (
    xla_kernels.TileIndex(
      xla_kernels.pack_int8(index.cluster_key_CD.astype(jnp.int8)), index.cluster_scale_C, None, index.member_CM, probes
    )
    if probes
    else None
  )
  arrays = (signatures, index.scale_T[in_order], packed_index) if backend == 'packed' else (index,)

  def packed(x_ND, signatures, scale, packed_index):
    return xla_kernels.route(x_ND, signatures, scale_T=scale, index=packed_index)[0]

  def xla(x_ND, index):
    q_ND, _ = ternary.quantise_int8(x_ND)
    if not probes:
      return routing.select(routing.signature_dots(q_ND, index.key_TD) * index.scale_T, 1)[:, 0]
    found = tile_index.find_candidates(q_ND, index, probes)
    place_N1 = routing.select(found.dot_NJ * found.scale_NJ, 1)
    return jnp.take_along_axis(found.tile_NJ, place_N1, axis=-1)[:, 0]

  find = packed if backend == 'packed' else xla

  def run(x_ND, *arrays):
    def step(x_ND, _):
      # The next lookup waits for this one.
      return x_ND + 1e-6 * find(x_ND, *arrays)[:, None].astype(jnp.float32), None

    return jax.lax.scan(step, x_ND, length=STEPS)[0]

  compiled = jax.jit(run)
  jax.block_until_ready(compiled(x_ND, *arrays))
  return lambda: jax.block_until_ready(compiled(x_ND, *arrays))


def take_turns(measured: dict) -> dict:
  """Return the nanoseconds of a step of each loop, the best of three in every round."""
  seconds = variants.take_turns_here(measured, _ROUNDS.value, repeats=3)
  return {name: [of_loop / STEPS * 1e9 for of_loop in of] for name, of in seconds.items()}


def summary(times: list[float], empty: list[float], tokens: int) -> dict:
  """Return nanoseconds a token, of the whole step and without an empty call, and the spread of the latter."""
  net = [(time - nothing) / tokens for time, nothing in zip(times, empty, strict=True)]
  return {
    'nanoseconds_with_call': round(statistics.median(times) / tokens, 2),
    'nanoseconds': round(statistics.median(net), 2),
    'min': round(min(net), 2),
    'max': round(max(net), 2),
  }


def exponents(rows: list[dict]) -> str:
  """Return the slope of log time over log T from 64 tiles on, and the T from which an index is faster."""
  lines = ['', f'{"":<30}{"exponent, T >= 64":>18}   faster than flat from T =']
  for backend in ('packed', 'xla'):
    for count in ROWS:
      of = {
        (row['tiles'], row['probes']): row['nanoseconds']
        for row in rows
        if row['backend'] == backend and row['tokens'] == count
      }
      for probes in (0, *PROBES):
        points = [
          (math.log(tiles), math.log(max(of[tiles, probes], 0.1)))
          for tiles in TILES
          if tiles >= 64 and (tiles, probes) in of
        ]
        slope = statistics.linear_regression(*zip(*points, strict=True)).slope
        faster = [
          tiles
          for tiles in TILES
          if (tiles, probes) in of and all(of[more, probes] < of[more, 0] for more in TILES if more >= tiles)
        ]
        since = '' if not probes else str(min(faster, default='never'))
        kind = f'{probes} probed' if probes else 'flat'
        lines.append(f'{f"{backend}, {count} token(s), {kind}":<30}{slope:18.2f}   {since}')
  return '\n'.join(lines)


def load_models(workdirs: list[str]) -> dict[str, checkpoints.Trained]:
  """Load the best checkpoints, by workdir. Raise InputError for models that cannot be compared."""
  models = {workdir: checkpoints.load_trained(pathlib.Path(workdir), 'best') for workdir in workdirs}
  sizes = {}
  for workdir, model in models.items():
    config = model.model.config
    sizes[workdir] = config.layers, config.ffn.tiles, config.ffn.clusters
    if not config.ffn.clusters:
      raise InputError(f'the model in {workdir} has no index; train one of configs/hierarchical_*.py')
    if sizes[workdir] != sizes[workdirs[0]]:
      raise InputError(
        f'layers, tiles and clusters are {sizes[workdir]} in {workdir} and {sizes[workdirs[0]]} in {workdirs[0]}; '
        'give models of one size'
      )
  return models


def trained(models: dict[str, checkpoints.Trained]) -> list[dict]:
  """Return the rows of trained models for every layer and number of probes."""
  rows: list[dict] = []
  measured: dict = {}
  for workdir, model in models.items():
    found, loops = prepare(model)
    rows += [{'model': workdir, **row} for row in found]
    measured |= {(workdir, *name): run for name, run in loops.items()}
  times = take_turns(measured)
  for row in rows:
    of, empty = (times[row['model'], row['layer'], probes, row['tokens']] for probes in (row['probes'], -1))
    row.update(summary(of, empty, row['tokens']))
  for workdir in models:
    print(f'\n{workdir}\n{table([row for row in rows if row["model"] == workdir])}')
  print(compare(rows))
  return rows


def prepare(model: checkpoints.Trained) -> tuple[list[dict], dict]:
  """Return the rows of a trained model without times, and its loops by layer, probes and tokens."""
  config = model.model.config
  corpus = model.corpus()
  probe_counts = [1 << i for i in range(config.ffn.clusters.bit_length()) if 1 << i <= config.ffn.clusters]
  windows = corpora.cut_windows(corpus.validation, config.context)[0][:16, :-1]
  _, captured = model.model.apply(
    {'params': model.params, 'routing': model.routing_state},
    windows,
    capture_intermediates=lambda module, _: module.name == 'norm',
    mutable=['intermediates'],
  )
  rows: list[dict] = []
  measured: dict = {}
  for layer in range(config.layers):
    name = f'layer_{layer}'
    [x_BLD] = captured['intermediates'][name]['ffn']['norm']['__call__']
    q_ND, _ = ternary.quantise_int8(x_BLD.reshape(-1, config.d_model))
    state = model.routing_state[name]['ffn']
    index = indexed_ffn.read_index(state, config.ffn)
    biases = (state.get('balance_bias'), indexed_ffn.read_cluster_bias(state, config.ffn))
    some_ND = q_ND[:: len(q_ND) // max(ROWS)]  # Take distant tokens, because neighbours are alike.
    for count in ROWS:
      measured[layer, -1, count] = loop('packed', one_tile(config.d_model), 0, some_ND[:count])
    for probes in (0, *probe_counts):
      recalls = [
        1.0 if not probes else float(tile_index.recall(q_ND, index, probes, *of)) for of in ((None, None), biases)
      ]
      for count in ROWS:
        measured[layer, probes, count] = loop('packed', index, probes, some_ND[:count])
        rows.append(
          {
            'layer': layer,
            'tiles': config.ffn.tiles,
            'clusters': config.ffn.clusters,
            'probes': probes,
            'tokens': count,
            'recall': round(recalls[0], 4),
            'recall_with_biases': round(recalls[1], 4),
            'cluster_bias': config.ffn.cluster_bias if config.ffn.balance_bias else None,
          }
        )
  losses = {}
  for probes in probe_counts:
    if config.ffn.top_k <= probes * config.ffn.tiles // config.ffn.clusters:
      ffn_config = dataclasses.replace(config.ffn, probes=probes)
      evaluator = Evaluator(dataclasses.replace(config, ffn=ffn_config), model.vocabulary, corpus.validation)
      losses[probes] = evaluator(model.params, model.routing_state)['loss']
  for row in rows:
    row.update({'trained_probes': config.ffn.probes, 'loss': losses.get(row['probes'])})
  return rows, measured


def compare(rows: list[dict]) -> str:
  """Tabulate means over layers: times as ratios to all keys of the same model, recall, and its ratio to the first."""
  lines = [
    '',
    f'{"probes":>7}{"time / all keys, 1":>20}{"64 tokens":>11}{"recall with biases":>20}{"/ first":>9}   model',
  ]
  models = list(dict.fromkeys(row['model'] for row in rows))

  def mean(name, model, probes, tokens):
    return statistics.mean(
      row[name] for row in rows if (row['model'], row['probes'], row['tokens']) == (model, probes, tokens)
    )

  for probes in sorted({row['probes'] for row in rows} - {0}):
    for model in models:
      ratios = [mean('nanoseconds', model, probes, n) / mean('nanoseconds', model, 0, n) for n in ROWS]
      found, first = (mean('recall_with_biases', of, probes, 1) for of in (model, models[0]))
      lines.append(f'{probes:>7}{ratios[0]:20.2f}{ratios[1]:11.2f}{found:20.3f}{found / first:9.2f}   {model}')
  return '\n'.join(lines)


def table(rows: list[dict]) -> str:
  """Tabulate a line for every number of probes, with ranges over layers."""
  lines = [f'{"probes":>7}{"loss":>9}{"ns, 1 token":>18}{"64 tokens":>16}{"recall, keys":>18}{"with biases":>16}']
  for probes in sorted({row['probes'] for row in rows}):

    def span(name, digits, tokens, probes=probes):
      values = [row[name] for row in rows if row['probes'] == probes and row['tokens'] == tokens]
      return f'{min(values):,.{digits}f} to {max(values):,.{digits}f}'

    loss = next(row['loss'] for row in rows if row['probes'] == probes)
    lines.append(
      f'{probes or "flat":>7}{"-" if loss is None else f"{loss:.4f}":>9}{span("nanoseconds", 0, 1):>18}'
      f'{span("nanoseconds", 0, 64):>16}{span("recall", 3, 1):>18}{span("recall_with_biases", 3, 1):>16}'
    )
  return '\n'.join(lines)


if __name__ == '__main__':
  launcher.run_main(main)
