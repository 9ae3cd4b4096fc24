"""What the NEON loops cost: executed instructions for each multiply-accumulate, and cycles as llvm-mca estimates them.

  apt-get install qemu-user g++-aarch64-linux-gnu llvm-19
  python tests/arm/count.py [--json=results/arm_instructions.json]

Instructions are counted by QEMU over whole calls of a micro-kernel (64 rows x 1,024 columns), loop ends and the final
subtraction of planes included; cycles are those of the innermost loop, repeated. An estimate compares loops; it is not
a measurement of any CPU.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
SOURCE = HERE.parent.parent / 'xla_kernels' / 'csrc'
COMPILER, OBJDUMP, MCA = 'aarch64-linux-gnu-g++', 'aarch64-linux-gnu-objdump', 'llvm-mca-19'
LINES = [line.split() for line in (SOURCE / 'isa/flags.txt').read_text().splitlines() if line and line[0] != '#']
FLAGS = {name: flags for processor, name, *flags in LINES if processor == 'aarch64'}
# Multiply-accumulates of one instruction.
PRODUCTS = {'sdot': 16, 'smmla': 32, 'smlal': 8, 'smlal2': 8}
CASES = (('neon', 1), ('neon_dotprod', 1), ('neon_dotprod', 5), ('neon_i8mm', 8), ('neon_i8mm', 32))
CPUS = ('cortex-a72', 'neoverse-n1', 'neoverse-n2', 'neoverse-v1', 'neoverse-v2', 'apple-m1')
LACKING = {'neon_dotprod': ('cortex-a72',), 'neon_i8mm': ('cortex-a72', 'neoverse-n1', 'apple-m1')}
COLUMNS = 1024


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--json', metavar='FILE')
  arguments = parser.parse_args()
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    objects, program = build(pathlib.Path(folder))
    for path, tokens in CASES:
      executed = [count(folder, program, path, tokens, calls) for calls in (100, 200)]
      per_mac = (executed[1] - executed[0]) / 100 / (64 * COLUMNS * tokens)
      loop, macs = main_loop(objects[path], path, tokens)
      cycles = {cpu: macs / mca(loop, cpu) for cpu in CPUS if cpu not in LACKING.get(path, ())}
      rows.append(
        {
          'path': path,
          'tokens': tokens,
          'instructions_per_mac': round(per_mac, 4),
          'loop_instructions': len(loop),
          'loop_macs': macs,
          'macs_per_cycle': {cpu: round(value, 1) for cpu, value in cycles.items()},
        }
      )
      print(
        f'{path:<14}{tokens:>3} token(s)  {per_mac:.4f} instructions a MAC   MAC per cycle: '
        + '  '.join(f'{cpu} {value:.1f}' for cpu, value in cycles.items()),
        flush=True,
      )
  if arguments.json:
    pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1) + '\n')


def build(folder):
  """Objects of the paths, and a program of all of them."""

  def compile_(name, *flags):
    output = folder / f'{name}.o'
    subprocess.run(
      [
        COMPILER,
        '-std=c++20',
        '-O3',
        '-ffp-contract=off',
        f'-I{SOURCE}',
        *flags,
        '-c',
        str(next(SOURCE.rglob(f'{name}.cc'))),
        '-o',
        str(output),
      ],
      check=True,
    )
    return output

  objects = {name: compile_(name, *flags) for name, flags in FLAGS.items()}
  rest = [compile_(name) for name in ('portable', 'cpu', 'paths')]
  program = folder / 'count_main'
  subprocess.run(
    [
      COMPILER,
      '-std=c++20',
      '-O2',
      f'-I{SOURCE}',
      str(HERE / 'count_main.cc'),
      *map(str, [*objects.values(), *rest]),
      '-static',
      '-o',
      str(program),
    ],
    check=True,
  )
  subprocess.run(
    ['gcc', '-O2', '-shared', '-fPIC', str(HERE / 'count_instructions.c'), '-o', str(folder / 'count.so')], check=True
  )
  return objects, program


def count(folder, program, path, tokens, calls):
  """Instructions that a run executes."""
  result = subprocess.run(
    [
      'qemu-aarch64',
      '-cpu',
      'max',
      '-plugin',
      f'{folder}/count.so',
      str(program),
      path,
      str(tokens),
      str(COLUMNS),
      str(calls),
    ],
    check=True,
    capture_output=True,
    text=True,
  )
  return int(re.search(r'executed (\d+)', result.stderr)[1])


def main_loop(compiled, path, tokens):
  """The innermost loop that multiplies so many tokens: assembly lines, and the multiply-accumulates of one round."""
  listing = subprocess.run(
    [OBJDUMP, '-d', '--no-show-raw-insn', str(compiled)], check=True, capture_output=True, text=True
  ).stdout
  code = [
    (int(at, 16), text.split('//')[0].strip())
    for at, text in re.findall(r'^\s*([0-9a-f]+):\s+(.*)$', listing, re.MULTILINE)
  ]
  loops = []
  for at, text in code:
    jump = re.match(r'(?:b\.\w+|cbnz|tbnz)\s+(?:\w+, )*([0-9a-f]+) <', text)
    if jump and int(jump[1], 16) < at:
      loops.append([line for address, line in code if int(jump[1], 16) <= address < at])
  # Told apart by the registers that the products add to and, for sdot, by those of the activations.
  product, accumulators, activations = {
    'neon': ('smlal', 8, 1),
    'neon_dotprod': ('sdot', 16 if tokens == 1 else 4 * tokens, tokens),
    'neon_i8mm': ('smmla', 16, None),
  }[path]

  def operands(loop, which):
    return {line.split(None, 1)[1].split(', ')[which].split('.')[0] for line in loop if line.split()[0] in PRODUCTS}

  candidates = [
    loop
    for loop in loops
    if any(line.startswith(product) for line in loop)
    and loop_loads(loop)
    and len(operands(loop, 0)) == accumulators
    and (product != 'sdot' or len(operands(loop, 2)) == activations)
  ]
  loop = min(candidates, key=len)
  return loop, sum(PRODUCTS.get(line.split()[0], 0) for line in loop)


def loop_loads(loop):
  """Not so in the loops that measure the peak."""
  return any(line.startswith('ld') for line in loop)


def mca(loop, cpu):
  """Cycles of one round."""
  rounds = 200
  result = subprocess.run(
    [
      MCA,
      '-mtriple=aarch64-linux-gnu',
      f'-mcpu={cpu}',
      '-mattr=+dotprod,+i8mm',
      f'-iterations={rounds}',
      '-instruction-info=false',
      '-resource-pressure=false',
      '-',
    ],
    input='\n'.join(loop),
    check=True,
    capture_output=True,
    text=True,
  )
  return int(re.search(r'Total Cycles:\s+(\d+)', result.stdout)[1]) / rounds


if __name__ == '__main__':
  main()
