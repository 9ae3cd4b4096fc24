"""Settings as fields of dataclasses: their defaults, what is known about them beyond, and checks as tables."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from trix_jax.errors import InputError


def setting(default: Any, *, before: Any = dataclasses.MISSING, may_differ: bool = False) -> Any:
  """Declare a setting as the field of a dataclass.

  Args:
    default: its value where nobody gives one.
    before: for a setting that came later, what runs and files without it did. It stays when the default changes.
    may_differ: whether a model may start from the parameters of one with another value.
  """
  known = {} if before is dataclasses.MISSING else {'before': before}
  return dataclasses.field(default=default, metadata={**known, 'may_differ': may_differ})


def values_before(section: Any) -> dict[str, Any]:
  """Return the later settings of a section, each with what runs and files without it did."""
  return {field.name: field.metadata['before'] for field in dataclasses.fields(section) if 'before' in field.metadata}


def names_that_may_differ(section: Any) -> tuple[str, ...]:
  """Name the settings of a section that do not change the meaning of a model's parameters."""
  return tuple(field.name for field in dataclasses.fields(section) if field.metadata.get('may_differ'))


class Check(NamedTuple):
  """What one or more settings must satisfy, each by itself.

  Attributes:
    names: full names, such as `training.steps`.
    test: takes a value.
    words: of the message for one that fails, after `NAME = VALUE; `.
  """

  names: tuple[str, ...]
  test: Callable[[Any], bool]
  words: str


class Relation(NamedTuple):
  """What several settings must satisfy together.

  Attributes:
    test: takes the config.
    words: of the message where it fails. `{c.training.steps}` stands for a setting of the config.
  """

  test: Callable[[Any], bool]
  words: str


def require(config: Any, prefix: str, checks: Iterable[Check | Relation]) -> None:
  """Raise InputError for the first check that fails; `prefix` comes before the names of single settings."""
  for check in checks:
    if isinstance(check, Relation):
      if not check.test(config):
        raise InputError(check.words.format(c=config))
      continue
    for name in check.names:
      value = config
      for part in name.split('.'):
        value = getattr(value, part)
      if not check.test(value):
        shown = f'is {value!r}' if isinstance(value, str) else f'= {value}'
        raise InputError(f'{prefix}{name} {shown}; {check.words}')


def choice_of(*names: str, among: Iterable[str]) -> Check:
  """Check that settings are among the given names."""
  allowed = tuple(among)
  return Check(names, lambda value: value in allowed, f'choose one of {", ".join(allowed)}')


def at_least_1(*names: str) -> Check:
  """Check that settings are at least 1."""
  return Check(names, lambda value: value >= 1, 'it must be at least 1')
