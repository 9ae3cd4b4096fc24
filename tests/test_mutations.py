"""The table of mutations stands for the code as it is; `mutations/run.py` tries them."""

import ast
import pathlib

import pytest
from mutations.mutations import MUTATIONS

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize('mutation', MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_one_place_of_its_file(mutation):
  text = (ROOT / mutation.file).read_text()
  assert text.count(mutation.old) == 1, f'{mutation.file} has this {text.count(mutation.old)} times: {mutation.old}'
  assert mutation.new != mutation.old
  if mutation.file.endswith('.py'):
    ast.parse(text.replace(mutation.old, mutation.new))


def test_mutations_have_names_of_their_own_and_tests_that_exist():
  names = [mutation.name for mutation in MUTATIONS]
  assert len(names) == len(set(names)) >= 60
  named = {test for mutation in MUTATIONS for test in mutation.tests}
  assert [test for test in sorted(named) if not (ROOT / test).is_file()] == []
  assert all(mutation.tests for mutation in MUTATIONS)
