"""Write text with a BitNet b1.58 model from Hugging Face, such as microsoft/bitnet-b1.58-2B-4T.

  pip install -e . tokenizers
  python examples/bitnet/write_text.py --model=FOLDER --prompt='The capital of France is'

FOLDER has config.json, *.safetensors and tokenizer.json, as Hugging Face serves them.
"""

import argparse
import pathlib
import sys
import time

import bitnet
import numpy as np


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', metavar='FOLDER', type=pathlib.Path, required=True)
  parser.add_argument('--prompt', required=True)
  parser.add_argument('--length', type=int, default=100, help='tokens to write')
  parser.add_argument('--temperature', type=float, default=0.0, help='0 takes the likeliest token')
  parser.add_argument('--top_k', type=int, default=0, help='draw from so many likeliest tokens; 0 for all')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--head', choices=bitnet.PRECISIONS, default='int8', help='precision of the output head')
  arguments = parser.parse_args()
  try:
    import tokenizers
  except ImportError:
    parser.error('this needs the library that reads tokenizer.json: pip install tokenizers')
  try:
    config, weights = bitnet.load(arguments.model, arguments.head)
    tokenizer = tokenizers.Tokenizer.from_file(str(arguments.model / 'tokenizer.json'))
    prompt = tokenizer.encode(arguments.prompt).ids
    written, shown, start = [], '', time.perf_counter()
    print(arguments.prompt, end='', flush=True)
    for token_BS in bitnet.stream(
      config,
      weights,
      np.array([prompt]),
      arguments.length,
      temperature=arguments.temperature,
      top_k=arguments.top_k,
      seed=arguments.seed,
    ):
      written += token_BS[0].tolist()
      text = tokenizer.decode(written)
      print(text.removeprefix(shown), end='', flush=True)
      shown = text
    seconds = time.perf_counter() - start
    print(f'\n({len(written)} tokens in {seconds:.1f} s, with the prompt and compiling)', file=sys.stderr)
  except (ValueError, OSError) as error:
    parser.error(str(error))


if __name__ == '__main__':
  main()
