"""Pack a trained model into one file for inference.

  python -m trix_jax.export --workdir=runs/quickstart --out=model.safetensors

The file holds the tiles at two bits a weight, the addresses that tokens are routed by, and the rest of the model as
int8 (--attention and --head choose otherwise), with its config, its vocabulary and where it comes from. It runs on any
CPU:

  python generate.py --model=model.safetensors --prompt='ROMEO:'
"""

from trix_jax import host

if __name__ == '__main__':
  host.prepare_cpu()  # Before anything imports JAX.

import pathlib

from absl import flags

from trix_jax import checkpoints, cli, inference, transformer, weights
from trix_jax.errors import InputError

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder that train.py wrote.', required=True)
_OUT = flags.DEFINE_string('out', None, 'File to write.', required=True)
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'best', checkpoints.KINDS, 'Which checkpoint.')
_ATTENTION = flags.DEFINE_enum(
  'attention',
  'int8',
  weights.PRECISIONS,
  'How the projections around attention are kept; ternary costs a model that was not trained for it a tenth of a nat.',
)
_HEAD = flags.DEFINE_enum(
  'head',
  'int8',
  weights.PRECISIONS,
  'How the output head is kept; embedding and positions are float32 with a float32 head, else int8.',
)


def main() -> None:
  if not _OUT.value:
    raise InputError('--out is empty; give the path of a file')
  trained = checkpoints.load_trained(cli.folder_of(_WORKDIR), _CHECKPOINT.value)
  model = inference.from_checkpoint(trained, attention=_ATTENTION.value, head=_HEAD.value)
  path = pathlib.Path(_OUT.value)
  inference.save(model, path)
  parameters = transformer.count_parameters(trained.params)
  size = path.stat().st_size
  print(
    f'{path}: {size:,} bytes, {4 * parameters / size:.1f} times smaller than its {parameters:,} parameters in float32'
  )
  for part, bytes_ in weights.sizes(model.config).items():
    print(f'  {part:<34}{bytes_:>12,} bytes')


if __name__ == '__main__':
  cli.run(main)
