"""The suites: tables that can be run, of runs that can be compared."""

import pytest

from experiments import suites
from experiments.runner import planning
from trix_jax import configuration


def small_runs(name, folder, seeds=1):
  return planning.runs_of(name, list(suites.SUITES[name].variants), 'small', folder, seeds)


@pytest.mark.parametrize('name', suites.SUITES)
def test_every_run_of_every_suite_has_a_config_that_can_be(name, tmp_path):
  suite = suites.SUITES[name]
  assert set(suite.against) | set(suite.evaluated) <= set(suite.variants)
  assert {suite.baseline(variant) for variant in suite.variants} - {None} <= set(suite.variants)
  for budget in suites.BUDGETS:
    for of in planning.runs_of(name, list(suite.variants), budget, tmp_path, 2):
      default = configuration.default_config()
      for path, value in of.settings.items():
        section, _, key = path.rpartition('.')
        assert type((default[section] if section else default)[key]) is type(value), path
      configuration.parse(planning.config_of(of.settings))


def test_what_is_given_in_parts_is_a_part_of_what_the_budget_has(tmp_path):
  runs = {of.variant: of.settings for of in small_runs('recipe', tmp_path)}
  assert [
    (runs[name]['training.batch_size'], runs[name]['training.steps'])
    for name in ('recipe', 'double_batch', 'twice_as_long')
  ] == [(16, 1200), (32, 600), (16, 2400)]


def test_a_run_is_measured_with_one_of_its_seed_that_differs_in_its_draws(tmp_path):
  runs = {of.variant: of for of in small_runs('transfer', tmp_path, 1)}
  for variant, partner in suites.SUITES['transfer'].partners.items():
    ours, theirs = runs[variant], runs[partner]
    assert ours.partner == theirs and theirs in ours.needs and theirs.partner is None
    assert ours.settings == {**theirs.settings, 'seed': ours.settings['seed']}
    assert theirs.settings['seed'] == ours.settings['seed'] + 100
  assert runs['branch'].needs[0] == runs['twin_branch'].needs[0] == runs['trunk']
  # The other run is the one of the suite `address`, which is trained once.
  [of] = planning.runs_of('address', ['16_stream'], 'small', tmp_path, 1)
  assert of.digest == runs['emergent'].digest


def test_a_budget_does_not_train_what_it_has_already_under_another_name():
  def dropouts(budget):
    return [name for name in suites.variants_of(suites.SUITES['recipe'], suites.BUDGETS[budget]) if 'dropout' in name]

  assert dropouts('small') == ['no_dropout', 'dropout_0.05', 'dropout_0.2']
  assert dropouts('recipe') == ['dropout_0.05', 'dropout_0.1', 'dropout_0.2']


@pytest.mark.parametrize('budget', ['small', 'full'])
def test_variants_that_are_compared_have_seen_as_much_text(budget, tmp_path):
  def text(of):
    own = of.settings['training.steps'] * of.settings['training.batch_size']
    start = of.settings.get('training.start_from')
    carved = {str(carve.out): str(carve.dense) for carve in of.carves}
    return own + sum(text(needed) for needed in of.needs if str(needed.workdir) == carved.get(start, start))

  for name, suite in suites.SUITES.items():
    runs = {of.variant: of for of in planning.runs_of(name, list(suite.variants), budget, tmp_path, 1)}
    for variant, of in runs.items():
      if baseline := suite.baseline(variant):
        assert text(of) == text(runs[baseline]), (name, variant, baseline)


def test_equal_runs_are_one_run_wherever_they_are_made(tmp_path):
  runs = small_runs('remedies', tmp_path / 'here', 2)
  names = [(of.variant, of.seed) for of in runs]
  assert len(set(names)) == len({of.digest for of in runs}) == len(names) == 2 * len(suites.SUITES['remedies'].variants)
  for of in runs:
    settings = {of.settings.get(name) for name in ('training.start_from', 'loss.teacher')} - {None}
    assert settings == {str(needed.workdir) for needed in of.needs} and len(of.needs) <= 1
    assert all((needed.variant, needed.seed) == ('dense', of.seed) for needed in of.needs)
    # Otherwise what goes on would see the same windows again.
    assert (
      all(needed.settings['seed'] != of.settings['seed'] for needed in of.needs)
      == bool(of.settings.get('training.start_from'))
      or not of.needs
    )
  elsewhere = small_runs('remedies', tmp_path / 'there', 2)
  assert [(of.portable, of.digest) for of in elsewhere] == [(of.portable, of.digest) for of in runs]
  by_name = {
    (of.suite, of.variant): of.digest
    for name in ('remedies', 'option_a', 'four_routings')
    for of in small_runs(name, tmp_path)
  }
  assert by_name['option_a', 'dense'] == by_name['remedies', 'dense'] == by_name['four_routings', 'dense']
  assert by_name['option_a', 'sparse'] == by_name['four_routings', 'emergent'] != by_name['option_a', 'dense']


def test_a_variant_may_have_a_name_that_reads_like_a_carve(tmp_path, monkeypatch):
  dense = {'model.routing': 'dense', 'model.gate': 'one_hot'}
  variants = {'a': dense, 'b': {'training.start_from': '{a carved 1 of 8}', 'model.tiles': 8}}

  def needs_of(**more):
    monkeypatch.setitem(suites.SUITES, 'mine', suites.Suite('', '', variants | more))
    of = planning.run_of('mine', 'b', 'small', tmp_path, 0)
    return [needed.variant for needed in of.needs], [(carve.tiles, carve.top_k) for carve in of.carves]

  assert needs_of() == (['a'], [(8, 1)])
  assert needs_of(**{'a carved 1 of 8': {'model.tiles': 8}}) == (['a carved 1 of 8'], [])
