"""Metrics of a run: `metrics.jsonl` is the record, and TensorBoard events show it.

In rows of the training split `dead_tiles` counts tiles that no token of the batch reached. In rows of the validation
split it counts tiles that are silent or that no token of the whole split reached.
"""

import json
import pathlib
from typing import Any

import numpy as np
import tensorboardX

from trix_jax.errors import InputError
from trix_jax.system import files

# For more tiles than this TensorBoard shows a histogram for each layer instead of a curve for each tile.
MOST_CURVES = 64


class MetricWriter:
  """Appends rows to `workdir/metrics.jsonl` and to TensorBoard events beside it."""

  def __init__(self, workdir: pathlib.Path, resume_step: int):
    """Open the record, and cut rows after `resume_step` and an unfinished last line."""
    self._path = workdir / 'metrics.jsonl'
    if self._path.exists():
      kept = ''.join(
        line + '\n'
        for line in self._path.read_text(errors='replace').splitlines()
        if (row := _row(line)) and row['step'] <= resume_step
      )
      files.write_text(self._path, kept)
    self._file = self._path.open('a')
    try:
      self._board = tensorboardX.SummaryWriter(str(workdir / 'tensorboard'), purge_step=resume_step + 1)
    except BaseException:
      self._file.close()
      raise

  def write(self, row: dict[str, Any]) -> None:
    """Write one row: `step`, `split`, and numbers or nested lists of numbers. None means that a number is unknown."""
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    for name, value in row.items():
      if name in ('step', 'split') or value is None:
        continue
      array, tag = np.asarray(value), f'{row["split"]}/{name}'
      if array.ndim == 2 and array.shape[1] > MOST_CURVES:
        for layer, values in enumerate(array):
          self._board.add_histogram(f'{tag}/{layer}', values, row['step'])
        continue
      for index, number in np.ndenumerate(array):
        self._board.add_scalar('/'.join([tag, *(str(i) for i in index)]), float(number), row['step'])

  def __enter__(self):
    return self

  def __exit__(self, *_):
    """Flush and close both."""
    self._file.close()
    self._board.close()


def _row(line: str) -> dict[str, Any] | None:
  """Return the row of a line, or None for an unfinished or invalid line."""
  try:
    row = json.loads(line)
    return row if isinstance(row['step'], int) and isinstance(row['split'], str) and 'loss' in row else None
  except (ValueError, TypeError, KeyError):
    return None


def read_metrics(workdir: pathlib.Path, split: str | None = None) -> list[dict[str, Any]]:
  """Return the rows of one split or of both, oldest first, without an unfinished last line.

  Raises:
    InputError: when there is no file.
  """
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  try:
    lines = path.read_text(errors='replace').splitlines()
  except OSError as error:
    raise InputError(f'cannot read {path}: {error.strerror}; give the folder of a run') from error
  return [row for line in lines if (row := _row(line)) and split in (None, row['split'])]
