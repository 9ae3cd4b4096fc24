"""What a suite is, and the budgets. A run is `frozen_recipe.py` with settings of a budget and a variant.

A setting that names a variant in braces, such as `{dense}`, stands for that variant's workdir with the same seed.
`{dense carved 32 of 128}` stands for what `trix carve` makes of it. One that names a text of `experiments.texts` in
braces stands for its file. The setting `seed` of a variant is added to the run's seed.
"""

import dataclasses
import os
import re
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]

CONFIG = 'experiments/suites/frozen_recipe.py'
# Settings that variants give as multiples of the budget's.
SCALED = ('training.steps', 'training.batch_size')
# A carve of a variant, in a setting that stands for one.
CARVED = re.compile(r'(.+) carved (\d+) of (\d+)')
# A run that starts from another adds this to its seed, so that it does not see the same windows again.
LATER_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Budget:
  """An amount of training.

  Attributes:
    settings: of every run.
    seeds: 0 to this, exclusive.
    variants: number of variants of each suite, from the first; None for all.
    large: whether the budget includes variants for a GPU.
  """

  settings: Settings
  seeds: int
  variants: int | None = None
  large: bool = False


# Budgets except the recipe's keep the recipe's former dropout, so that older and newer results are comparable.
BUDGETS = {
  'smoke': Budget(
    {
      'corpus': 'python_stdlib',
      'model.layers': 1,
      'model.d_model': 32,
      'model.heads': 2,
      'model.context': 64,
      'model.dropout': 0.1,
      'training.steps': 8,
      'training.batch_size': 8,
      'training.log_every': 2,
      'training.eval_every': 4,
      'training.checkpoint_every': 4,
    },
    1,
    3,
  ),
  # Half the recipe's layers and steps: three seeds of most suites take two cores at most two hours.
  'small': Budget(
    {
      'model.layers': 2,
      'model.dropout': 0.1,
      'training.steps': 1200,
      'training.batch_size': 16,
      'training.eval_every': 200,
      'training.checkpoint_every': 200,
    },
    3,
  ),
  # The unchanged recipe, for claims about the recipe.
  'recipe': Budget(
    {
      'model.dropout': 0.0,
      'training.steps': 2400,
      'training.batch_size': 16,
      'training.eval_every': 400,
      'training.checkpoint_every': 200,
    },
    5,
  ),
  # The original's four epochs at its batch size, for a GPU.
  'full': Budget(
    {
      'model.dropout': 0.1,
      'training.steps': 15_680,
      'training.batch_size': 256,
      'training.eval_every': 980,
      'training.checkpoint_every': 980,
    },
    5,
    large=True,
  ),
}


@dataclasses.dataclass(frozen=True)
class Suite:
  """A question and the runs that answer it.

  Attributes:
    title: of its section in the report.
    question: the question in one or two sentences.
    variants: settings of each variant.
    against: baseline of a variant, if it is not the first variant; None for no baseline.
    partners: variants that are measured together with a run of another variant, of the same seed.
    evaluated: variants whose loss is measured under another routing than that of their training.
    measures: names from `measure.MEASURES`, to measure every run beyond its loss.
    base: settings that all variants share.
    large: variants for budgets that include a GPU.
    verdicts: function from the results so far, which may lack any run, to verdicts, such as `verdicts.judge` makes.
    file: file of a user's suite; `own_suites.add` sets it.
  """

  title: str
  question: str
  variants: Mapping[str, Settings]
  measures: tuple[str, ...] = ()
  base: Settings = dataclasses.field(default_factory=dict)
  against: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
  partners: Mapping[str, str] = dataclasses.field(default_factory=dict)
  evaluated: Mapping[str, str] = dataclasses.field(default_factory=dict)
  large: tuple[str, ...] = ()
  verdicts: Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]] | None = None
  file: str = ''

  def baseline(self, variant: str) -> str | None:
    """Return the baseline of a variant."""
    first = next(iter(self.variants))
    return self.against.get(variant, first if variant != first else None)


# A gate of 1 and no balance loss, for routings without scores and what is held against them.
UNSCORED = {'model.gate': 'one_hot', 'loss.balance_weight': 0.0}
DENSE = {'model.routing': 'dense', **UNSCORED}
LEARNED = {'model.routing': 'learned'}
RANDOM = {'model.routing': 'random', **UNSCORED}
TOKEN = {'model.address': 'token'}
BIASED = {'model.balance_bias': True, 'loss.balance_bias_rate': 0.02}
LOSS_FREE = {**BIASED, 'loss.balance_weight': 0.0}


def control(name: str) -> Settings:
  """Return settings of one of `controls.TABLE`."""
  return {'model.control': name}


def tiles(count: int, top_k: int) -> Settings:
  """Return settings for the same hidden units in `count` tiles, of which a token computes `top_k`."""
  return {'model.tiles': count, 'model.top_k': top_k}


def index(clusters: int, probes: int) -> Settings:
  """Return settings for an index, balanced by biases."""
  return {'model.clusters': clusters, 'model.probes': probes, **BIASED}


def carve_out_of(variant: str, tiles: int, top_k: int) -> str:
  """Return a setting that stands for what `trix carve` makes of a variant."""
  return f'{{{variant} carved {top_k} of {tiles}}}'


def split_reference(value: str, variants: Collection[str]) -> tuple[str, tuple[int, int] | None]:
  """Return the variant that a setting in braces names, and the tiles and top_k of a carve, None without one.

  The variant may be unknown. A variant can have any name, even one that reads like a carve of another.
  """
  named = value[1:-1] if value.endswith('}') else value
  carve = None if named in variants else CARVED.fullmatch(named)
  return (carve[1], (int(carve[3]), int(carve[2]))) if carve else (named, None)


def scaled_steps(factor: float) -> Settings:
  """Return settings for `factor` times the budget's steps; see `settings_of`."""
  return {'training.steps': factor}


DROPOUTS = {
  'no_dropout': {'model.dropout': 0.0},
  **{f'dropout_{rate}': {'model.dropout': rate} for rate in (0.05, 0.1, 0.2)},
}


def sparse_and_dense(sizes: Sequence[Any], settings: Callable[[Any], Settings]) -> dict[str, Settings]:
  """Return the variants sparse_SIZE and dense_SIZE, with the settings of each size."""
  return {
    f'{name}_{size}': {**of_name, **settings(size)}
    for size in sizes
    for name, of_name in (('sparse', {}), ('dense', DENSE))
  }


def dense_to_sparse(sizes: Sequence[Any]) -> dict[str, str | None]:
  """Return sparse_SIZE as the baseline of each dense_SIZE, and no baseline for sparse_SIZE."""
  return {
    f'{name}_{size}': f'sparse_{size}' if name == 'dense' else None for size in sizes for name in ('sparse', 'dense')
  }


def variants_of(suite: Suite, budget: Budget) -> list[str]:
  """List the variants that a budget allows, without those that equal the first one under its settings."""
  first, *others = [name for name in suite.variants if budget.large or name not in suite.large]
  same = settings_of(suite, first, budget, 0)
  return [first, *(name for name in others if settings_of(suite, name, budget, 0) != same)][: budget.variants]


def settings_of(suite: Suite, variant: str, budget: Budget, seed: int) -> dict[str, Any]:
  """Return the settings of a run, with references to other runs unresolved."""
  own = {**suite.base, **suite.variants[variant]}
  own |= {name: max(1, round(own[name] * budget.settings[name])) for name in SCALED if name in own}
  seed += own.get('seed', 0) + (LATER_SEED if 'training.start_from' in own else 0)
  return {'sample_length': 0, 'training.keep_checkpoints': 20, **budget.settings, **own, 'seed': seed}


def describe_error(error: BaseException, file: str) -> str:
  """Return an error of a user's file as one line, with the line number in the file."""
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, file)]
  if isinstance(error, SyntaxError) and _same(error.filename or '', file):
    lines = [error.lineno]
  where = f'line {lines[-1]}: ' if lines else ''
  message = error.msg if isinstance(error, SyntaxError) else ' '.join(str(error).split())
  return f'{where}{type(error).__name__}' + (f': {message}' if message else '')


def _same(path: str, file: str) -> bool:
  return os.path.abspath(path) == os.path.abspath(file)
