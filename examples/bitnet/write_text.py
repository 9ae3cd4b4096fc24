"""Write text with a BitNet b1.58 model from Hugging Face, such as microsoft/bitnet-b1.58-2B-4T.

  pip install -e . tokenizers
  python examples/bitnet/write_text.py --model=FOLDER --prompt='The capital of France is'

FOLDER has config.json, *.safetensors and tokenizer.json, as Hugging Face serves them.
"""

import argparse
import math
import pathlib
import sys
import time
from typing import Any

import bitnet
import numpy as np

END = '<|end_of_text|>'
UNFINISHED = '\ufffd'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', metavar='FOLDER', type=pathlib.Path, required=True)
  parser.add_argument('--prompt', required=True)
  parser.add_argument('--length', type=int, default=100, help='tokens to write at most')
  parser.add_argument('--temperature', type=float, default=0.0, help='0 takes the likeliest token')
  parser.add_argument('--top_k', type=int, default=0, help='draw from so many likeliest tokens; 0 for all')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--head', choices=bitnet.PRECISIONS, default='int8', help='precision of the output head')
  arguments = parser.parse_args()
  if not 0 <= arguments.temperature < math.inf:
    parser.error(f'--temperature={arguments.temperature}: it must be finite, and not negative')
  if not 0 <= arguments.top_k < 2**31 or not 0 <= arguments.seed < 2**31:
    parser.error('--top_k and --seed must be from 0 to 2**31 - 1')
  try:
    import tokenizers
  except ImportError:
    parser.error('this needs the library that reads tokenizer.json: pip install tokenizers')
  path = arguments.model / 'tokenizer.json'
  if not path.is_file():
    parser.error(f'{path} is missing')
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    config, weights = bitnet.load(arguments.model, arguments.head)
    write(config, weights, tokenizer, arguments)
  except (ValueError, OSError) as error:
    parser.error(str(error))


def write(config: bitnet.BitNetConfig, weights: bitnet.Weights, tokenizer: Any, arguments: argparse.Namespace) -> None:
  """Print the prompt and its continuation, up to the end of the text."""
  prompt = tokenizer.encode(arguments.prompt).ids
  end = tokenizer.token_to_id(END)
  written: list[int] = []
  shown, start = 0, time.perf_counter()
  print(arguments.prompt, end='', flush=True)
  settings = {'temperature': arguments.temperature, 'top_k': arguments.top_k, 'seed': arguments.seed}
  for token_BS in bitnet.stream(config, weights, np.array([prompt]), arguments.length, **settings):
    written += token_BS[0].tolist()
    ended = end in written
    # A character may take several tokens; what is unfinished waits.
    text = tokenizer.decode(written[: written.index(end)] if ended else written).rstrip(UNFINISHED)
    print(text[shown:], end='', flush=True)
    shown = len(text)
    if ended:
      break
  seconds = time.perf_counter() - start
  print(f'\n({len(written)} tokens in {seconds:.1f} s, with the prompt and compiling)', file=sys.stderr)


if __name__ == '__main__':
  main()
