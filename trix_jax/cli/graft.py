r"""Graft tiles that were trained on other texts into a trained model, without training and without a router.

  trix train --config=stream --config.tokenizer=byte --config.model.gate=one_hot --workdir=runs/host
  trix train --config=stream --config.tokenizer=byte --config.model.gate=one_hot --config.corpus=python_stdlib \
    --config.training.start_from=runs/host --config.training.train_only=tiles --config.model.tiles=1 \
    --config.model.d_ff=128 --config.model.routing=dense --config.loss.balance_weight=0 --workdir=runs/donor
  trix graft --workdir=runs/host --donors=runs/donor --out=runs/grafted
  trix eval --workdir=runs/grafted

A donor trains one tile a layer inside the host, which stays as it is, and every token goes through that tile. The new
run has the tiles of both, and tokens find them by their signatures. So the host needs model.routing=emergent, a gate of
1 and no balance biases, and a donor's tiles are as wide as its own.

The program prints the loss on each text: of the host, of the new run, and of the model whose tiles that text trained.
On a donor's text, R is the part of the way from the first to the last that grafting goes: 1 is all of it. On the host's
text, F is what grafting costs in nats: 0 is nothing.

--out evaluates, packs and generates like any other run, and `trix lookup` names the origin of each tile.
"""

import dataclasses
import math
import pathlib
from typing import Any

from absl import flags

from trix_jax.cli import arguments, new_run
from trix_jax.configuration import TILES
from trix_jax.data import corpora
from trix_jax.editing import grafting
from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import Evaluator
from trix_jax.nn.model_config import ModelConfig
from trix_jax.runs import checkpoints, origins

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the host, a run.', required=True, flag_values=FLAGS)
_DONORS = flags.DEFINE_list(
  'donors', None, 'Folders of donors: runs with training.train_only=tiles.', required=True, flag_values=FLAGS
)
_OUT = flags.DEFINE_string('out', None, 'Folder of the new run.', required=True, flag_values=FLAGS)


def main() -> None:
  out, workdir, folders = arguments.folder_of(_OUT), arguments.folder_of(_WORKDIR), arguments.folders_of(_DONORS)
  new_run.check_free(out, workdir, *folders)
  host = new_run.load_source(workdir, 'best')
  grafting.require_host(host.config.model)
  donors = [load_donor(host, folder) for folder in folders]
  parts = [
    grafting.Donor(str(folder), donor.params, donor.config.model) for folder, donor in zip(folders, donors, strict=True)
  ]
  params, model = grafting.graft(host.params, host.config.model, parts)
  config = dataclasses.replace(host.config, model=model)
  texts = [of_run.corpus() for of_run in (host, *donors)]
  found = [compare(host, owner, params, model, text) for owner, text in zip((host, *donors), texts, strict=True)]
  new_run.write(out, config, texts[0], params, {}, host.step, found[0]['grafted'], origins.graft(host, donors))
  print(format_table([host, *donors], found))
  print(f'{model.ffn.tiles} tiles in each layer, {host.config.model.ffn.tiles} of them of the host; {out}')


def load_donor(host: checkpoints.Trained, folder: pathlib.Path) -> checkpoints.Trained:
  """Load the best checkpoint of a donor. Raise InputError when it is none, or its tokens are not those of the host."""
  donor = new_run.load_source(folder, 'best')
  if donor.config.training.train_only != TILES:
    raise InputError(f'{folder} did not train new tiles in a host; a donor is a run with training.train_only=tiles')
  if donor.vocabulary != host.vocabulary:
    raise InputError(f'donor {folder} has another vocabulary than the host; train both with tokenizer=byte')
  return donor


def compare(
  host: checkpoints.Trained, owner: checkpoints.Trained, params: Any, model: ModelConfig, text: corpora.Corpus
) -> dict[str, Any]:
  """Evaluate the host, the grafted model and the owner of a text on its validation part."""
  rows: dict[str, Any] = {}
  for name, config, of_model in (
    ('host', host.config.model, host.params),
    ('grafted', model, params),
    ('owner', owner.config.model, owner.params),
  ):
    same = name == 'owner' and owner is host
    rows[name] = rows['host'] if same else Evaluator(config, host.vocabulary, text.validation)(of_model)
  return rows


def format_table(owners: list[checkpoints.Trained], found: list[dict[str, Any]]) -> str:
  """Tabulate the losses on each text, and what grafting recovers there or costs."""
  lines = [f'{"validation text":<20}{"host":>10}{"grafted":>10}{"its own":>10}{"to grafted tiles":>18}']
  T = owners[0].config.model.ffn.tiles
  for owner, rows in zip(owners, found, strict=True):
    before, after, best = (rows[name]['loss'] for name in ('host', 'grafted', 'owner'))
    share = sum(sum(load[T:]) for load in rows['grafted']['tile_load']) / len(rows['grafted']['tile_load'])
    part = recovered(before, after, best)
    if owner is owners[0]:
      result = f'F = {after - before:+.4f} nats'
    else:
      result = 'no R: its own tiles are no better than the host' if math.isnan(part) else f'R = {part:.3f}'
    lines.append(
      f'{origins.name_text(owner)[:19]:<20}{before:>10.4f}{after:>10.4f}{best:>10.4f}{100 * share:>16.1f} %  {result}'
    )
  return '\n'.join(lines)


def recovered(before: float, after: float, best: float) -> float:
  """Return the part of the way down from `before` to `best` that `after` has gone; NaN where `best` is no better."""
  return (before - after) / (before - best) if best < before else math.nan
