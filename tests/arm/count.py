"""What the NEON loops cost: executed instructions for each multiply-accumulate, and cycles as llvm-mca estimates them.

  apt-get install qemu-user g++-aarch64-linux-gnu llvm-19
  python tests/arm/count.py [--json=results/arm_instructions.json]
  python tests/arm/count.py --parts [--json=results/arm_parts.json]

Instructions are counted by QEMU over whole calls of a micro-kernel (64 rows x 1,024 columns), loop ends and the final
subtraction of planes included; cycles are those of the innermost loop, repeated.

With --parts it takes each part of a token in one layer of the reference model instead. Cycles are then those of all
instructions of a call, in the order in which QEMU executed them, with every branch foreseen and all memory in the
first-level cache.

An estimate compares code; it is not a measurement of any CPU.
"""

import argparse
import array
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
PARTS = ('attention_float32', 'attention_int8', 'norm', 'projection_int8', 'projection_ternary', 'tile', 'draw')


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--json', metavar='FILE')
  parser.add_argument('--parts', action='store_true', help='count parts of a token, not loops of products')
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    rows = list((count_parts if arguments.parts else count_products)(pathlib.Path(folder)))
  if arguments.json:
    pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1) + '\n')


def count_parts(folder):
  """Yield the instructions and cycles of each part of a token on each path."""
  _, program = build(folder, 'count_parts')
  assembly = dict(disassemble(program))
  for part in PARTS:
    for path in FLAGS:
      executed = [assembly[address] for address in trace_call(folder, program, path, part)]
      lines = [without_target(line) for line in executed]
      cycles = {cpu: round(mca(lines, cpu, rounds=1)) for cpu in CPUS if cpu not in LACKING.get(path, ())}
      row = {'part': part, 'path': path, 'instructions': len(lines), 'cycles': cycles}
      print(
        f'{part:<20}{path:<14}{len(lines):>7,} instructions   cycles: '
        + '  '.join(f'{cpu} {value:,}' for cpu, value in cycles.items()),
        flush=True,
      )
      yield row


def trace_call(folder, program, path, part):
  """Return the addresses of the instructions of one call, in the order of execution.

  Programs with one call and with two part after the first one. What the longer trace has more is a call.
  """
  once, twice = (record(folder, program, path, part, calls) for calls in (1, 2))
  parting = next(i for i, (one, other) in enumerate(zip(once, twice, strict=False)) if one != other)
  return twice[parting : parting + len(twice) - len(once)]


def record(folder, program, *arguments):
  """Return the addresses of all instructions that a run executes."""
  trace = array.array('Q')
  run(folder, program, arguments, f',trace={folder}/trace')
  trace.frombytes((folder / 'trace').read_bytes())
  return trace


def without_target(line):
  """Let a branch or an address point to itself, and a call be a branch: llvm-mca knows no labels, and no calls."""
  return re.sub(r'\b[0-9a-f]+ <.*>', '#0', re.sub(r'^(bl\s|blr\s.*|ret$)', 'b #0 //', line))


def count_products(folder):
  """Yield what products of a block cost."""
  objects, program = build(folder, 'count_main')
  for path, tokens in CASES:
    executed = [count(folder, program, path, tokens, COLUMNS, calls) for calls in (100, 200)]
    per_mac = (executed[1] - executed[0]) / 100 / (64 * COLUMNS * tokens)
    loop, macs = main_loop(objects[path], path, tokens)
    cycles = {cpu: macs / mca(loop, cpu) for cpu in CPUS if cpu not in LACKING.get(path, ())}
    yield {
      'path': path,
      'tokens': tokens,
      'instructions_per_mac': round(per_mac, 4),
      'loop_instructions': len(loop),
      'loop_macs': macs,
      'macs_per_cycle': {cpu: round(value, 1) for cpu, value in cycles.items()},
    }
    print(
      f'{path:<14}{tokens:>3} token(s)  {per_mac:.4f} instructions a MAC   MAC per cycle: '
      + '  '.join(f'{cpu} {value:.1f}' for cpu, value in cycles.items()),
      flush=True,
    )


def build(folder, main):
  """Objects of the paths, and a program of all of them with the operations."""

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
  operations = [path.stem for path in sorted((SOURCE / 'ops').glob('*.cc'))]
  rest = [compile_(name) for name in ('portable', 'cpu', 'paths', *operations)]
  program = folder / main
  subprocess.run(
    [
      COMPILER,
      '-std=c++20',
      '-O2',
      f'-I{SOURCE}',
      str(HERE / f'{main}.cc'),
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


def count(folder, program, *arguments):
  """Instructions that a run executes."""
  return int(re.search(r'executed (\d+)', run(folder, program, arguments))[1])


def run(folder, program, arguments, options=''):
  """Run a program in QEMU with the plugin, and return what it printed."""
  command = ['qemu-aarch64', '-cpu', 'max', '-plugin', f'{folder}/count.so{options}', str(program)]
  return subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True, text=True).stderr


def disassemble(compiled):
  """Return the address and the text of each instruction."""
  listing = subprocess.run(
    [OBJDUMP, '-d', '--no-show-raw-insn', str(compiled)], check=True, capture_output=True, text=True
  ).stdout
  return [
    (int(at, 16), text.split('//')[0].strip())
    for at, text in re.findall(r'^\s*([0-9a-f]+):\s+(.*)$', listing, re.MULTILINE)
  ]


def main_loop(compiled, path, tokens):
  """The innermost loop that multiplies so many tokens: assembly lines, and the multiply-accumulates of one round."""
  code = disassemble(compiled)
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


def mca(loop, cpu, rounds=200):
  """Cycles of one round."""
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
