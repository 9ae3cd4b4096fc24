"""Time llama.cpp and ik_llama.cpp beside ours, on models with as many ternary weights, in one run.

  pip install gguf && python benchmarks/llama_cpp.py --model=large --llama_cpp=llama.cpp/build/bin
  python benchmarks/llama_cpp.py --model=bitnet --llama_cpp=llama.cpp/build/bin --ik_llama_cpp=ik_llama.cpp/build/bin

Build both for this CPU (`cmake -DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release`, targets `llama-quantize` and
`llama-batched-bench`). The models have random weights, which take as long as trained ones:

  large     8 layers, d_model 512, d_ff 2048, 65 characters: `large` of inference_speed.py, architecture `arcee` there
  bitnet    BitNet b1.58 2B-4T: examples/bitnet, architecture `bitnet` there

The benchmark writes each model once in float16, and their own tools quantise it: llama.cpp to TQ2_0, ik_llama.cpp to
IQ2_BN_R4. Embedding and head are Q8_0; ours is int8. Every program has as many threads as there are cores, and reads a
prompt of 64 tokens a row. `large` then writes 128 tokens a row, `bitnet` 16. The programs take turns for --rounds
rounds. The table has medians, and how many times the tokens a second of a rival ours are.
"""

import functools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import variants
from absl import app, flags

PROMPT = 64
ROOT = pathlib.Path(__file__).parents[1]


class Shape(NamedTuple):
  """A model: its architecture's name in GGUF, its sizes, and what is measured."""

  architecture: str
  layers: int
  d_model: int
  d_ff: int
  heads: int
  kv_heads: int
  vocabulary: int
  rows: tuple[int, ...]
  steps: int


SHAPES = {
  'large': Shape('arcee', 8, 512, 2048, 8, 8, 65, (1, 8, 64), 128),
  'bitnet': Shape('bitnet', 30, 2560, 6912, 20, 5, 128_256, (1, 8), 16),
}
# For every rival its type of ternary weights.
RIVALS = {'llama.cpp': 'TQ2_0', 'ik_llama.cpp': 'IQ2_BN_R4'}

_MODEL = flags.DEFINE_enum('model', 'large', SHAPES, 'Model to measure.')
_LLAMA_CPP = flags.DEFINE_string('llama_cpp', '', "Folder of llama.cpp's programs.")
_IK_LLAMA_CPP = flags.DEFINE_string('ik_llama_cpp', '', "Folder of ik_llama.cpp's programs.")
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'How often to measure each program.', lower_bound=1)
_JSON = flags.DEFINE_string('json', '', 'File for the results.')

# By the number of rows: tokens a second of prompt and decoding.
Speeds = dict[int, dict[str, float]]


def main(_):
  try:
    import gguf  # noqa: F401
  except ImportError:
    sys.exit('error: gguf is not installed: pip install gguf')
  given = {'llama.cpp': _LLAMA_CPP.value, 'ik_llama.cpp': _IK_LLAMA_CPP.value}
  folders = {name: pathlib.Path(folder) for name, folder in given.items() if folder}
  if not folders:
    sys.exit('error: there is nothing to compare with; --llama_cpp and --ik_llama_cpp name folders of programs')
  for folder in folders.values():
    for program in ('llama-quantize', 'llama-batched-bench'):
      if not (folder / program).is_file():
        sys.exit(f'error: there is no {folder / program}; build the target {program}')
  variants.check_writable(_JSON.value)
  shape = SHAPES[_MODEL.value]
  with tempfile.TemporaryDirectory() as scratch:
    write_model(shape, pathlib.Path(scratch, 'float16.gguf'))
    programs = our_programs(_MODEL.value)
    for name, folder in folders.items():
      path = pathlib.Path(scratch, f'{RIVALS[name]}.gguf')
      quantise(folder, pathlib.Path(scratch, 'float16.gguf'), path, RIVALS[name])
      programs[f'{name} {RIVALS[name]}'] = functools.partial(time_rival, folder, path, shape)
    pathlib.Path(scratch, 'float16.gguf').unlink()
    results = take_turns(programs, _ROUNDS.value)
  rows = [row for name in programs for row in summary(name, results[name])]
  show(rows)
  variants.write(_JSON.value, rows)


def write_model(shape: Shape, path: pathlib.Path) -> None:
  """Write a model of random ternary weights as float16, layer by layer."""
  import gguf

  rng = np.random.default_rng(0)
  writer = gguf.GGUFWriter(path, shape.architecture, use_temp_file=False)
  writer.add_block_count(shape.layers)
  writer.add_context_length(4096)
  writer.add_embedding_length(shape.d_model)
  writer.add_feed_forward_length(shape.d_ff)
  writer.add_head_count(shape.heads)
  writer.add_head_count_kv(shape.kv_heads)
  writer.add_rope_dimension_count(shape.d_model // shape.heads)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_vocab_size(shape.vocabulary)
  writer.add_tokenizer_model('none')
  kv_width = shape.d_model // shape.heads * shape.kv_heads
  matrices = {
    'attn_q': (shape.d_model, shape.d_model),
    'attn_k': (kv_width, shape.d_model),
    'attn_v': (kv_width, shape.d_model),
    'attn_output': (shape.d_model, shape.d_model),
    'ffn_up': (shape.d_ff, shape.d_model),
    'ffn_down': (shape.d_model, shape.d_ff),
  }
  norms = {'attn_norm': shape.d_model, 'ffn_norm': shape.d_model}
  if shape.architecture == 'bitnet':
    matrices['ffn_gate'] = matrices['ffn_up']
    norms |= {'attn_sub_norm': shape.d_model, 'ffn_sub_norm': shape.d_ff}
  embedding = rng.standard_normal((shape.vocabulary, shape.d_model), np.float32)
  writer.add_tensor('token_embd.weight', embedding.astype(np.float16))
  writer.add_tensor('output_norm.weight', np.ones(shape.d_model, np.float32))
  for layer in range(shape.layers):
    for name, width in norms.items():
      writer.add_tensor(f'blk.{layer}.{name}.weight', np.ones(width, np.float32))
    for name, (rows, columns) in matrices.items():
      codes = rng.integers(-1, 2, (rows, columns), np.int8)
      writer.add_tensor(f'blk.{layer}.{name}.weight', (codes / np.float16(columns**0.5)).astype(np.float16))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def quantise(folder: pathlib.Path, source: pathlib.Path, out: pathlib.Path, type_: str) -> None:
  """Quantise all matrices with a rival's own tool, and the embedding, which is the head as well, to Q8_0."""
  run([folder / 'llama-quantize', '--token-embedding-type', 'q8_0', source, out, type_])


def run(command: list) -> str:
  """Run a program and return its output; end with its last lines if it fails."""
  process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
  if process.returncode:
    sys.exit(f'error: {" ".join(map(str, command))} failed:\n' + '\n'.join(process.stdout.splitlines()[-10:]))
  return process.stdout


def our_programs(model: str) -> dict[str, Callable[[], Speeds]]:
  """Return ours; of `large` with one tile of four, as a model has it, and with all, which is the rivals' work."""
  if model == 'bitnet':
    return {'ours': functools.partial(time_bitnet, SHAPES[model])}
  return {
    'ours, one tile of four': functools.partial(time_large, 'large packed T=4'),
    'ours, all tiles': functools.partial(time_large, 'large packed all tiles T=4'),
  }


def time_large(variant: str) -> Speeds:
  command = [sys.executable, ROOT / 'benchmarks/inference_speed.py', f'--variant={variant}']
  times = json.loads(run(command).splitlines()[-1])['microseconds']
  return {rows: {'decoding': rows / times[f'decode {rows}'] * 1e6} for rows in SHAPES['large'].rows}


def time_bitnet(shape: Shape) -> Speeds:
  with tempfile.NamedTemporaryFile(suffix='.json') as file:
    flags_ = {'rows': ','.join(map(str, shape.rows)), 'prompt': PROMPT, 'steps': shape.steps, 'repeats': 1}
    program = ROOT / 'examples/bitnet/speed.py'
    run([sys.executable, program, f'--json={file.name}', *(f'--{name}={value}' for name, value in flags_.items())])
    return {
      row['rows']: {'prompt': row['prompt_tokens_per_second'], 'decoding': row['decoded_tokens_per_second']}
      for row in json.load(file)
    }


def time_rival(folder: pathlib.Path, model: pathlib.Path, shape: Shape) -> Speeds:
  """Run llama-batched-bench, whose table has a line for each number of rows."""
  threads = os.cpu_count()
  length = PROMPT + shape.steps
  rows = ','.join(map(str, [*shape.rows, 1]))  # llama.cpp ends before it has written the last line: one to spare.
  options = {'c': length * max(shape.rows), 'npp': PROMPT, 'ntg': shape.steps, 'npl': rows}
  command = [folder / 'llama-batched-bench', '-m', model, '-t', threads, '-tb', threads]
  output = run([str(part) for part in [*command, *(part for name in options for part in (f'-{name}', options[name]))]])
  speeds: Speeds = {}
  for line in output.splitlines():
    if re.match(rf'\|\s*{PROMPT}\s*\|\s*{shape.steps}\s*\|', line):
      _, _, count, _, _, prompt, _, decoding, *_ = (float(part) for part in line.strip('| ').split('|'))
      speeds.setdefault(int(count), {'prompt': prompt, 'decoding': decoding})
  if set(speeds) != set(shape.rows):
    sys.exit(f'error: {command[0]} printed no table with {shape.rows} sequences:\n{output[-2000:]}')
  return speeds


def take_turns(programs: dict[str, Callable[[], Speeds]], rounds: int) -> dict[str, list[Speeds]]:
  results: dict[str, list[Speeds]] = {name: [] for name in programs}
  start = time.perf_counter()
  for round_ in range(rounds):
    for name, measure in programs.items():
      results[name].append(measure())
      done = sum(map(len, results.values()))
      left = (time.perf_counter() - start) / done * (rounds * len(programs) - done)
      decoding = '  '.join(f'{rows} rows {speeds["decoding"]:,.1f}' for rows, speeds in results[name][-1].items())
      print(f'round {round_ + 1}/{rounds}  {name:<24}  decoding, tokens/s: {decoding}  ({left / 60:.0f} min left)')
  return results


def summary(name: str, rounds: list[Speeds]) -> list[dict]:
  """Return a row for each number of rows: median, least and most tokens a second over the rounds."""
  found = []
  for rows in rounds[0]:
    for phase in rounds[0][rows]:
      values = [speeds[rows][phase] for speeds in rounds]
      tokens = {'median': statistics.median(values), 'min': min(values), 'max': max(values)}
      found.append({'model': _MODEL.value, 'program': name, 'phase': phase, 'rows': rows, 'tokens_per_second': tokens})
  return found


def show(rows: list[dict]) -> None:
  """Print all rows, and ours as multiples of the rivals'."""
  for row in rows:
    tokens = row['tokens_per_second']
    line = f'{row["program"]:<24}{row["phase"]:<10}{row["rows"]:>3} rows{tokens["median"]:>12,.1f} tokens/s'
    if row['program'].startswith('ours'):
      for rival in rows:
        if not rival['program'].startswith('ours') and (rival['phase'], rival['rows']) == (row['phase'], row['rows']):
          line += f'  {tokens["median"] / rival["tokens_per_second"]["median"]:.1f}x {rival["program"]}'
    print(line)


if __name__ == '__main__':
  app.run(main)
