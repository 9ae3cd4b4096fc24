"""Results of mutations, a line each of a file, and their table."""

import hashlib
import json
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

from mutations.mutation import Mutation


class Results:
  """The lines of --out."""

  def __init__(self, path: pathlib.Path):
    self._path, self._lock = path, threading.Lock()
    lines = path.read_text(errors='replace').splitlines() if path.exists() else []
    try:
      self._rows = [json.loads(line) for line in lines]
    except ValueError as error:
      raise SystemExit(f'{path} holds something else than results ({error}); name another file') from error

  @property
  def clean(self) -> list[dict[str, Any]]:
    return [row for row in self._rows if 'clean' in row]

  def of(self, mutation: Mutation) -> dict[str, Any] | None:
    """The latest result of a mutation with this text."""
    change = change_of(mutation)
    return next(
      (row for row in reversed(self._rows) if row.get('name') == mutation.name and row['change'] == change), None
    )

  def add(self, row: dict[str, Any]) -> None:
    with self._lock:
      self._rows.append(row)
      with self._path.open('a') as file:
        file.write(json.dumps(row) + '\n')


def change_of(mutation: Mutation) -> str:
  """A digest of the text of a mutation."""
  return hashlib.sha256(f'{mutation.file}\0{mutation.old}\0{mutation.new}'.encode()).hexdigest()[:12]


def table(mutations: Sequence[Mutation], results: Results) -> str:
  """The results in Markdown: a line a room, then a line a mutation."""
  rows = [(mutation, results.of(mutation)) for mutation in mutations]
  kinds = ('fast', 'slow', 'unnoticed', 'error', 'left out')
  lines = ['| room | mutations | fast | slow | unnoticed | error | left out |', '|---|---:|---:|---:|---:|---:|---:|']
  for room in [*dict.fromkeys(mutation.room for mutation in mutations), 'all']:
    of = [row for mutation, row in rows if room in (mutation.room, 'all')]
    counts = [sum(row is not None and row['result'] == kind for row in of) for kind in kinds]
    lines.append(f'| {room} | {len(of)} | ' + ' | '.join(map(str, counts)) + ' |')
  tried_at = sorted({(row.get('date', 'a day'), row.get('commit', 'a commit')) for _, row in rows if row})
  lines += ['', 'Tried on ' + ', '.join(f'{date} at {commit_}' for date, commit_ in tried_at)]
  lines += ['', '| mutation | file | noticed by | first test that fails | seconds |', '|---|---|---|---|---:|']
  for mutation, row in rows:
    result, test, seconds = (row['result'], row['test'], f'{row["seconds"]:.0f}') if row else ('not tried', '', '')
    test = ' '.join(test.split())[:160].replace('|', r'\|')
    name = mutation.name.replace('_', ' ')
    lines.append(f'| {name} | `{mutation.file}` | {result} | {f"`{test}`" if test else ""} | {seconds} |')
  return '\n'.join(lines)
