"""Pack a trained model into one file for inference.

  trix export --workdir=runs/quickstart --out=model.safetensors
  trix generate --model=model.safetensors --prompt='def '

The file holds the tiles at two bits a weight, the addresses that route tokens, and the rest of the model as int8.
Projections that were trained ternary take two bits too. The file also holds the config, the vocabulary and the origin
of the model. --attention and --head choose other precisions. It runs on any CPU.
"""

import pathlib

from absl import flags

from trix_jax import inference
from trix_jax.cli import arguments
from trix_jax.errors import InputError
from trix_jax.inference import weights
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints
from trix_jax.system import files

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run.', required=True, flag_values=FLAGS)
_OUT = flags.DEFINE_string('out', None, 'File to write.', required=True, flag_values=FLAGS)
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'best', checkpoints.KINDS, 'Checkpoint to pack.', flag_values=FLAGS)
_ATTENTION = flags.DEFINE_enum(
  'attention',
  None,
  weights.PRECISIONS,
  'Precision of the projections around attention, by default int8, or ternary where training used it. Elsewhere '
  'ternary costs a tenth of a nat. The cache of keys and values is float32 with float32 attention, else int8.',
  flag_values=FLAGS,
)
_HEAD = flags.DEFINE_enum(
  'head',
  None,
  weights.PRECISIONS,
  'Precision of the output head, by default int8, or ternary where training used it. Embedding and positions are '
  'float32 with a float32 head, else int8.',
  flag_values=FLAGS,
)


def main() -> None:
  if not _OUT.value:
    raise InputError('--out is empty; give the path of a file')
  workdir, path = arguments.folder_of(_WORKDIR), pathlib.Path(_OUT.value)
  trained = checkpoints.load_trained(workdir, _CHECKPOINT.value)
  if path.suffix != '.safetensors' and files.is_inside(path, workdir):
    raise InputError(f'{path} may be a file of the run itself; let --out end in .safetensors, or choose another folder')
  model = inference.from_checkpoint(trained, attention=_ATTENTION.value or '', head=_HEAD.value or '')
  inference.save(model, path)
  parameters = transformer.count_parameters(trained.params)
  size = path.stat().st_size
  print(
    f'{path}: {size:,} bytes, {4 * parameters / size:.1f} times smaller than its {parameters:,} parameters in float32'
  )
  for part, bytes_ in weights.count_bytes(model.config).items():
    print(f'  {part:<34}{bytes_:>12,} bytes')
