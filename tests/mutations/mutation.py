"""One mutation: what is broken, where, and which tests should notice."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutation:
  """One deliberate error.

  Attributes:
    name: what is broken, in snake_case.
    room: the part of the project, for `--room` and the table.
    file: from the root of the repository.
    old, new: exact text.
    tests: test files that should notice, the likeliest first.
    path: the kernel path that runs the code; the mutation is left out where the CPU lacks it.
  """

  name: str
  room: str
  file: str
  old: str
  new: str
  tests: tuple[str, ...]
  path: str = ''


def break_file(
  room: str, file: str, tests: str, *mutations: tuple[str, str, str], path: str = ''
) -> tuple[Mutation, ...]:
  """Mutations (name, old, new) of one file; `tests` are names without `tests/` and `.py`."""
  files = tuple(f'tests/{test}.py' for test in tests.split())
  return tuple(Mutation(name, room, file, old, new, files, path) for name, old, new in mutations)
