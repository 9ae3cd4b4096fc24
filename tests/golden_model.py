"""Writes tests/data/golden.safetensors and golden.json: a small trained model, and what it says on the machine at hand.

  python train.py --config=configs/stream.py --workdir=runs/golden --config.model.layers=2 --config.model.d_model=64 \
    --config.model.d_ff=128 --config.model.heads=2 --config.model.context=64 --config.training.steps=1500
  python tests/golden_model.py --workdir=runs/golden

Without --workdir it keeps the model, and writes anew what it says, after a change of the arithmetic.

The file is read by `test_golden_model.py` on every CPU and under emulation: the format stays readable, and every
machine goes to the same tiles and writes the same text.
"""

import argparse
import json
import pathlib

from test_golden_model import FOLDER, tiles_of

from trix_jax import inference
from trix_jax.runs import checkpoints

PROMPT = 'First Citizen:\nWe are accounted poor citizens, the patricians good.'
CHARACTERS = 150


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', type=pathlib.Path)
  workdir, path = parser.parse_args().workdir, FOLDER / 'golden.safetensors'
  if workdir:
    FOLDER.mkdir(exist_ok=True)
    inference.save(inference.from_checkpoint(checkpoints.load_trained(workdir, 'best')), path)
  model = inference.load(path)
  text = model.generate([PROMPT], CHARACTERS, temperature=0.0)[0]
  said = {'prompt': PROMPT, 'text': text, 'tiles': tiles_of(model, PROMPT).tolist()}
  (FOLDER / 'golden.json').write_text(json.dumps(said) + '\n')


if __name__ == '__main__':
  main()
