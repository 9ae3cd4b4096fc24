"""Load a suite from a user's file, check it before any training, and add it to the table of suites.

The file defines `SUITE`, a `suites.Suite`, whose `verdicts` may be a function in the file:

  python -m experiments.run --suite=my_suite.py --budget=smoke --out=runs/my_results

The file's name without `.py` is the name of the suite and of its results.
"""

import dataclasses
import pathlib
import re
import runpy
from collections.abc import Collection
from typing import Any

import ml_collections

from experiments import suites, texts
from experiments.claims import other_programs
from experiments.measures import measure
from experiments.runner import planning
from trix_jax import configuration
from trix_jax.core import routing
from trix_jax.editing import carving
from trix_jax.errors import InputError
from trix_jax.training import warm_start

SUFFIX = '.py'
# Other files in a folder of results have these names, and `all` has a meaning for --suite.
TAKEN = (*other_programs.OF_FILES, 'all')


def is_file(name: str) -> bool:
  """Return whether a word of `--suite` names a file."""
  return name.endswith(SUFFIX)


def add(name: str, budget: str) -> str:
  """Load the suite in a file, check it, add it to `suites.SUITES`, and return its name there.

  Raises:
    InputError: when the file is missing, raises, or defines no suite; when its name is taken; or for an invalid run.
  """
  path = pathlib.Path(name)
  stem = path.stem
  if not path.is_file():
    raise InputError(f'--suite={name}: there is no such file; give a Python file that defines SUITE')
  if not re.fullmatch(r'[\w-]+', stem, re.ASCII):
    raise InputError(f'--suite={name}: {stem!r} becomes a name of files; use letters, digits, _ and - alone')
  known = suites.SUITES.get(stem)
  if stem in TAKEN or (known and pathlib.Path(known.file) != path):
    owner = known.file if known and known.file else 'this repository'
    raise InputError(f'--suite={name}: {owner} has the name {stem!r} already; rename the file')
  try:
    suite = runpy.run_path(name).get('SUITE')
  except (Exception, SystemExit) as error:  # The file is a program and can raise anything.
    raise InputError(f'--suite={name}: {suites.describe_error(error, name)}; mend the file') from error
  if not isinstance(suite, suites.Suite):
    found = 'no SUITE' if suite is None else f'a SUITE that is a {type(suite).__name__}'
    raise InputError(f'--suite={name} defines {found}; set SUITE = experiments.suites.Suite(...)')
  suite = dataclasses.replace(suite, file=name)
  suites.SUITES[stem] = suite
  try:
    _check(stem, suite, budget)
  except InputError as error:
    del suites.SUITES[stem]
    raise InputError(f'--suite={name}: {error}') from error
  return stem


# Of the parts of a suite, besides variants and verdicts.
KINDS = {
  'title': str,
  'question': str,
  'base': dict,
  'against': dict,
  'partners': dict,
  'evaluated': dict,
  'measures': Collection,
  'large': Collection,
}


def _check(name: str, suite: suites.Suite, budget: str) -> None:
  """Raise InputError for the first invalid part of a suite."""
  if not isinstance(suite.variants, dict) or not suite.variants:
    raise InputError('variants must be a dict of settings by name, with one variant or more')
  if suite.verdicts is not None and not callable(suite.verdicts):
    raise InputError(f'verdicts is a {type(suite.verdicts).__name__}; give a function of rows, or leave it out')
  if unnamed := [variant for variant in suite.variants if not isinstance(variant, str)]:
    raise InputError(f'variants has the name {unnamed[0]!r}; a name is a text')
  for part, kind in KINDS.items():
    if not isinstance(getattr(suite, part), kind):
      raise InputError(f'{part} is a {type(getattr(suite, part)).__name__}; give a {kind.__name__.lower()}')
  variants: Collection[str] = suite.variants
  _check_names('against', [*suite.against, *filter(None, suite.against.values())], variants)
  _check_names('partners', [*suite.partners, *suite.partners.values()], variants)
  _check_names('evaluated', suite.evaluated, variants)
  _check_names('evaluated', suite.evaluated.values(), routing.ROUTINGS)
  _check_names('large', suite.large, variants)
  _check_names('measures', suite.measures, measure.MEASURES)
  if suite.evaluated and 'routings' not in suite.measures:
    raise InputError("evaluated needs the measure 'routings'; add it to measures")
  for variant in suite.variants:
    try:
      _check_settings({**suite.base, **suite.variants[variant]}, variants)
      run = planning.run_of(name, variant, budget, pathlib.Path(), 0)
      _check_start(run, configuration.parse(planning.config_of(run.settings)))
    except (InputError, TypeError, ValueError) as error:
      raise InputError(f'variant {variant!r}: {" ".join(str(error).split())}') from error
    except RecursionError as error:
      raise InputError(
        f'variant {variant!r} starts from, learns from, or is measured with, what needs it in turn'
      ) from error


def _check_settings(settings: suites.Settings, variants: Collection[str]) -> None:
  """Raise InputError for an unknown setting, or an unknown variant in braces."""
  if 'seed' in settings:
    raise InputError('seed is not for a variant: --seeds=N runs every variant with each of the seeds 0 to N - 1')
  for name, value in settings.items():
    part: Any = configuration.default_config()
    for key in name.split('.'):
      part = part[key] if isinstance(part, ml_collections.ConfigDict) and key in part else None
    if part is None or isinstance(part, ml_collections.ConfigDict):
      raise InputError(
        f'there is no setting {name!r}; trix_jax/configuration.py and nn/model_config.py list every setting'
      )
    if isinstance(value, str) and value.startswith('{') and value not in texts.TEXTS:
      _check_reference(name, value, variants)


def _check_reference(name: str, value: str, variants: Collection[str]) -> None:
  """Raise InputError for a setting in braces that stands for nothing."""
  variant, _ = suites.split_reference(value, variants)
  if variant not in variants:
    raise InputError(
      f'{name} = {value!r} names no variant; choose from {", ".join(variants)}, or write a carve of one as '
      f"'{suites.carve_out_of(next(iter(variants)), 128, 32)}'"
    )


def _check_start(run: planning.Run, config: configuration.RunConfig) -> None:
  """Raise InputError where training cannot start from the run or carve that it names, or a teacher cannot be carved."""
  models = {}
  for needed in run.needs:
    model = models[str(needed.workdir)] = configuration.parse(planning.config_of(needed.settings)).model
    for carve in run.carves:
      if carve.dense == needed.workdir:
        models[str(carve.out)] = carving.make_config(model, carve.tiles, carve.top_k)
  if config.training.start_from in models:
    warm_start.check_model(models[config.training.start_from], config, 'the model to start from')


def _check_names(what: str, given: Any, allowed: Collection[str]) -> None:
  if isinstance(given, str):  # Python would take its characters for names.
    raise InputError(f'{what} is the text {given!r}; give a tuple, such as ({given!r},)')
  if unknown := [name for name in given if name not in allowed]:
    raise InputError(f'{what} has {unknown[0]!r}; choose from {", ".join(allowed)}')
