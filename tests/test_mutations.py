"""The table of mutations stands for the code as it is; `mutations/run.py` tries them."""

import ast
import dataclasses
import pathlib

import pytest
from mutations import copies
from mutations.mutations import MUTATIONS
from mutations.results import Results, change_of, table

ROOT = pathlib.Path(__file__).parent.parent


def test_every_mutation_changes_one_place_of_its_file():
  texts = {name: (ROOT / name).read_text() for name in {mutation.file for mutation in MUTATIONS}}
  for mutation in MUTATIONS:
    text = texts[mutation.file]
    assert text.count(mutation.old) == 1, f'{mutation.name}: {mutation.file} has this {text.count(mutation.old)} times'
    assert mutation.new != mutation.old
    if mutation.file.endswith('.py'):
      ast.parse(text.replace(mutation.old, mutation.new))


def test_mutations_have_names_of_their_own_and_tests_that_exist():
  names = [mutation.name for mutation in MUTATIONS]
  assert len(names) == len(set(names)) >= 60
  named = {test for mutation in MUTATIONS for test in mutation.tests}
  assert [test for test in sorted(named) if not (ROOT / test).is_file()] == []
  assert all(mutation.tests for mutation in MUTATIONS)


FAILURE = """..F
=========================== short test summary info ============================
FAILED tests/test_x.py::test_y[a b-1] - AssertionError: no
1 failed, 2 passed in 0.1s
"""


def test_a_failure_a_crash_and_a_timeout_are_noticed_and_nothing_else():
  assert copies.verdict(1, FAILURE) == 'tests/test_x.py::test_y[a b-1]'
  assert copies.verdict(2, 'ERROR tests/test_x.py - ImportError: no\n') == 'tests/test_x.py'
  assert copies.verdict(-11, '..') == copies.verdict(3, 'INTERNALERROR') == 'crash'
  assert copies.verdict(None, '..') == 'timeout'
  assert copies.verdict(0, '..') == copies.verdict(copies.NO_TESTS, '') == ''
  with pytest.raises(copies.TableError):
    copies.verdict(4, 'no such option')


def test_named_files_come_before_all_and_fast_tests_before_slow_ones():
  mutation = MUTATIONS[0]
  named = list(mutation.tests)
  found = [stage.arguments for stage in copies.stages(mutation)]
  assert found == [['--numprocesses=0', *named], ['-m', 'slow', '--numprocesses=0', *named], [], ['-m', 'slow']]


def test_results_are_found_again_unless_the_mutation_has_changed(tmp_path):
  first, second, third = MUTATIONS[:3]
  row = {'name': first.name, 'change': change_of(first), 'result': 'fast', 'test': 'tests/a.py::b', 'seconds': 2.0}
  results = Results(tmp_path / 'out.jsonl')
  results.add(row)
  results.add({**row, 'name': second.name, 'change': change_of(second), 'result': 'unnoticed', 'test': ''})
  again = Results(tmp_path / 'out.jsonl')
  assert again.of(first) == row and again.of(third) is None
  assert again.of(dataclasses.replace(first, new='something else')) is None
  lines = table((first, second, third), again).splitlines()
  assert '| all | 3 | 1 | 0 | 1 | 0 | 0 |' in lines
  assert [line.split(' | ')[2] for line in lines[-3:]] == ['fast', 'unnoticed', 'not tried']
