"""Plan the runs of a suite: their settings, the runs that each needs, and the workdir, named by the settings."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import ml_collections

from experiments import suites, texts
from experiments.suites import frozen_recipe


class Carve(NamedTuple):
  """What `trix carve` makes for a run to start from."""

  dense: pathlib.Path
  tiles: int
  top_k: int
  out: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Run:
  """One training of a suite.

  Attributes:
    suite, variant, seed: names of the run.
    settings: those that differ from the recipe, in the form for train.py.
    portable: the same settings, with digests for other runs, so that they are equal on any machine.
    digest: of the whole config; see `frozen_recipe.digest_of`.
    folder: folder of the runs of this budget.
    needs: runs that this one starts from, learns from, or is measured with.
    partner: the one of them that it is measured with, if any.
    text: the one of `experiments.texts` that it is trained on, if any.
    carves: to make before its training.
  """

  suite: str
  variant: str
  seed: int
  settings: dict[str, Any]
  portable: dict[str, Any]
  digest: str
  folder: pathlib.Path
  needs: tuple['Run', ...] = ()
  partner: 'Run | None' = None
  text: str = ''
  carves: tuple[Carve, ...] = ()

  @property
  def workdir(self) -> pathlib.Path:
    return self.folder / self.digest

  def beside(self, suffix: str) -> pathlib.Path:
    """Return a file beside the workdir."""
    return self.folder / f'{self.digest}{suffix}'

  @property
  def windows(self) -> int:
    """Return the number of windows of text in its training."""
    windows: int = self.settings['training.steps'] * self.settings['training.batch_size']
    return windows

  @property
  def finished(self) -> bool:
    """Return whether its training reached the last step."""
    return (self.workdir / 'checkpoints' / 'last' / str(self.settings['training.steps'])).is_dir()

  def __str__(self) -> str:
    return f'{self.suite}/{self.variant}, seed {self.seed}'


def runs_of(name: str, variants: Sequence[str], budget: str, folder: pathlib.Path, seeds: int) -> list[Run]:
  """List the runs of a suite, seed by seed."""
  return [run_of(name, variant, budget, folder, seed) for seed in range(seeds) for variant in variants]


def run_of(name: str, variant: str, budget: str, folder: pathlib.Path, seed: int) -> Run:
  """Return a run with the runs that it needs."""
  settings = suites.settings_of(suites.SUITES[name], variant, suites.BUDGETS[budget], seed)
  portable, needs, text, carves = dict(settings), [], '', []
  for key, value in settings.items():
    if value in texts.TEXTS:
      settings[key], portable[key] = str(texts.path_of(value, folder)), texts.TEXTS[value].sha256()[:12]
      text = value
    elif isinstance(value, str) and value.startswith('{'):
      named, sizes = suites.split_reference(value, suites.SUITES[name].variants)
      needed = run_of(name, named, budget, folder, seed)
      settings[key], portable[key] = str(needed.workdir), needed.digest
      if sizes:
        portable[key] += '_carved_{}_{}'.format(*sizes)
        carves.append(Carve(needed.workdir, *sizes, folder / budget / portable[key]))
        settings[key] = str(carves[-1].out)
      if needed not in needs:
        needs.append(needed)
  partner = suites.SUITES[name].partners.get(variant)
  with_it = run_of(name, partner, budget, folder, seed) if partner else None
  if with_it:
    needs.append(with_it)
  return Run(
    name,
    variant,
    seed,
    settings,
    portable,
    frozen_recipe.digest_of(config_of(portable)),
    folder / budget,
    tuple(needs),
    with_it,
    text,
    tuple(carves),
  )


def texts_of(runs: Iterable[Run]) -> set[str]:
  """Return the texts of `experiments.texts` that runs are trained on, and those that they need."""
  return {text for run in runs for text in (run.text, *texts_of(run.needs)) if text}


def config_of(settings: suites.Settings) -> ml_collections.ConfigDict:
  """Return the whole config of a run. Raise KeyError or TypeError for an invalid setting."""
  config = frozen_recipe.get_config()
  for path, value in settings.items():
    section, _, key = path.rpartition('.')
    (config[section] if section else config)[key] = value
  return config
