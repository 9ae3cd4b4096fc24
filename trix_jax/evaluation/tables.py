"""Write evaluations as tables for people."""

import json
import pathlib
from typing import Any

import numpy as np

from trix_jax.core import routing
from trix_jax.evaluation import classes
from trix_jax.system import files

# With more than MOST_TILES tiles, a table shows the top ones only.
MOST_TILES, TOP_TILES = 32, 6


def write_rows(path: pathlib.Path, rows: list[dict[str, Any]], checkpoint: str, step: int, text: str) -> None:
  """Write evaluations as a JSON list, each with the checkpoint, its step and the text. Raise OSError on failure."""
  described = [{'checkpoint': checkpoint, 'step': step, 'text': text, **row} for row in rows]
  files.write_text(path, json.dumps(described, indent=1) + '\n')


def format_routings(rows: list[dict[str, Any]], trained_routing: str) -> str:
  """Tabulate loss, perplexity and the certainty of the routing, a line for each routing."""
  lines = [f'{"routing":<12}{"loss":>8}{"perplexity":>12}{"margin":>8}{"ties %":>8}{"NMI":>7}{"dead tiles":>12}']
  for row in rows:
    mark = '  trained with' if row['routing'] == trained_routing else ''
    scored = row['routing'] == 'fitted_gate' or routing.ROUTINGS[row['routing']].by_scores
    margin, ties = np.mean(row['routing_margin']), 100 * np.mean(row['routing_ties'])
    sure = f'{margin:8.3f}{ties:8.3f}' if scored else f'{"-":>8}{"-":>8}'
    lines.append(
      f'{row["routing"]:<12}{row["loss"]:8.4f}{row["perplexity"]:12.3f}{sure}'
      f'{np.mean(row["class_tile_information"]):7.3f}{sum(row["dead_tiles"]):12d}{mark}'
    )
  return '\n'.join(lines)


def format_packed(rows: list[dict[str, Any]], size: int, parameters: int) -> str:
  """Tabulate what packing changes, a line for each routing. `size` is in bytes; `parameters` counts the model's."""
  lines = [
    f'packed, attention {rows[0]["attention"]}, head {rows[0]["head"]}: {size:,} bytes, '
    f'{4 * parameters / size:.1f} times smaller than float32',
    f'{"routing":<12}{"loss":>8}{"to XLA":>10}   tokens that go to another tile, % by layer',
  ]
  for row in rows:
    changed = ' '.join(f'{100 * share:6.3f}' for share in row['tile_disagreement'])
    lines.append(f'{row["routing"]:<12}{row["loss"]:8.4f}{row["loss_difference"]:+10.5f}   {changed}')
  return '\n'.join(lines)


def format_tile_load(rows: list[dict[str, Any]], trained_routing: str) -> str:
  """Tabulate the share of tokens of every tile, a line for each layer."""
  row = pick_routed(rows, trained_routing)
  lines = [f'tile load under {row["routing"]} routing, % of tokens:']
  for layer, load in enumerate(row['tile_load']):
    if len(load) > MOST_TILES:
      lines.append(
        f'  layer {layer}, {len(load)} tiles: least {100 * min(load):.3f}, median '
        f'{100 * np.median(load):.3f}, most {100 * max(load):.3f}, {len(load) * max(load):.2f} x mean'
      )
    else:
      lines.append(f'  layer {layer}: ' + ' '.join(f'{100 * share:5.1f}' for share in load))
  return '\n'.join(lines)


def format_tile_use(rows: list[dict[str, Any]], trained_routing: str) -> str:
  """Tabulate how each class of characters splits over tiles, in % of the class, a block for each layer.

  With many tiles it shows only the top ones.
  """
  row = pick_routed(rows, trained_routing)
  lines = [f'tiles by class of the input character under {row["routing"]} routing, % of the class:']
  for layer, counts in enumerate(row['class_tiles']):
    information = row['class_tile_information'][layer]
    lines.append(f'  layer {layer}, normalised mutual information {information:.3f}')
    for name, tiles in zip(classes.CLASSES, np.asarray(counts, float), strict=True):
      share_T = tiles / max(tiles.sum(), 1)
      if len(share_T) > MOST_TILES:
        top = np.argsort(-share_T, kind='stable')[:TOP_TILES]
        text = '  '.join(f'tile {tile}: {100 * share_T[tile]:.1f}' for tile in top)
      else:
        text = ' '.join(f'{100 * share:5.1f}' for share in share_T)
      if tiles.sum():
        lines.append(f'    {name:<12}{text}')
  return '\n'.join(lines)


def pick_routed(rows: list[dict[str, Any]], trained_routing: str) -> dict[str, Any]:
  """Return the row of the trained routing. For a dense model, whose tiles have equal loads, return the emergent row."""
  name = 'emergent' if routing.ROUTINGS[trained_routing].takes_all else trained_routing
  return next(row for row in rows if row['routing'] == name)
