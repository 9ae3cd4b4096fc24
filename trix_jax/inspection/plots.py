"""Plot a run: its loss, the load of its tiles over training, and the characters that each tile serves."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from trix_jax.errors import InputError
from trix_jax.evaluation import classes
from trix_jax.runs import metrics
from trix_jax.system import files


def require_matplotlib() -> None:
  """Raise InputError, which says how to install matplotlib, before any long work."""
  try:
    import matplotlib  # noqa: F401
  except ImportError as error:
    raise InputError("plots need matplotlib: pip install -e '.[plot]'") from error


def check_picture(path: pathlib.Path) -> None:
  """Raise InputError, before any long work, for a file that cannot be written or has no suffix of a kind of picture."""
  from matplotlib.figure import Figure

  kinds = Figure().canvas.get_supported_filetypes()
  if path.suffix[1:].lower() not in kinds:
    raise InputError(f'{path} is no picture; let it end in one of {", ".join(f".{kind}" for kind in sorted(kinds))}')
  files.check_writable(path)


def plot_run(workdir: pathlib.Path, evaluation_row: dict[str, Any], path: pathlib.Path) -> None:
  """Write one figure of a run.

  The upper row shows training and validation loss in nats, and for each layer every tile's share of validation tokens
  over training. The lower row shows, for each layer, the share of every class of characters that goes to each tile.

  Args:
    workdir: of the run, for its `metrics.jsonl`.
    evaluation_row: a row of `evaluator.evaluate_routings`.
    path: file to write; its suffix chooses the format.
  """
  require_matplotlib()
  from matplotlib.figure import Figure

  trained, validated = (metrics.read_metrics(workdir, split) for split in ('train', 'validation'))
  layers = len(evaluation_row['class_tiles'])
  figure = Figure(figsize=(3.2 * (layers + 1), 6), layout='constrained')
  axes = figure.subplots(2, layers + 1)
  _plot_loss(axes[0, 0], trained, validated)
  axes[1, 0].axis('off')
  axes[1, 0].text(
    0,
    0.5,
    f'{workdir.name}\nrouting: {evaluation_row["routing"]}\n'
    f'loss {evaluation_row["loss"]:.4f}, perplexity {evaluation_row["perplexity"]:.3f}',
    va='center',
  )
  for layer in range(layers):
    draw_load(
      axes[0, layer + 1], [row['step'] for row in validated], np.array([row['tile_load'][layer] for row in validated])
    )
    axes[0, layer + 1].set(ylabel='share of tokens', title=f'layer {layer}: tile load')
    draw_classes(axes[1, layer + 1], np.asarray(evaluation_row['class_tiles'][layer]), classes.CLASSES)
    axes[1, layer + 1].set(title='share of each class')
  figure.savefig(path, dpi=120)


def _plot_loss(ax, trained, validated):
  for rows, label, style in ((trained, 'training', {'linewidth': 0.8}), (validated, 'validation', {'marker': 'o'})):
    ax.plot([row['step'] for row in rows], [row['loss'] for row in rows], label=label, **style)
  ax.set(xlabel='step', ylabel='loss, nats')
  ax.legend()


def draw_load(ax, step_S: Sequence[int], load_ST: np.ndarray, **style) -> None:
  """Draw every tile's share of tokens over training, stacked."""
  ax.stackplot(step_S, load_ST.T, linewidth=0, **style)
  ax.set(xlabel='step', ylim=(0, 1))


def draw_classes(ax, counts_CT: np.ndarray, names: Sequence[str]) -> np.ndarray:
  """Draw the share of every class that goes to each tile as colours, and return it, [C, T]."""
  share_CT = counts_CT / np.maximum(counts_CT.sum(axis=1, keepdims=True), 1)
  ax.imshow(share_CT, vmin=0, vmax=1, aspect='auto', cmap='viridis')
  ax.set(xlabel='tile', yticks=range(len(names)), yticklabels=names)
  return share_CT
