"""The frozen recipe: results stay those of their runs when settings and defaults change."""

import json
import pathlib
import runpy

from experiments import suites
from experiments.runner import planning
from experiments.suites import frozen_recipe
from trix_jax import configuration


def test_the_budget_of_the_recipe_is_the_recipe(tmp_path):
  [of] = planning.runs_of('recipe', ['recipe'], 'recipe', tmp_path, 1)
  config = frozen_recipe.get_config()
  config.sample_length, config.training.keep_checkpoints = 0, of.settings['training.keep_checkpoints']
  assert planning.config_of(of.settings) == config


STORED = [
  (results, row)
  for path in sorted((pathlib.Path(__file__).parents[1] / 'results').rglob('*.json'))
  if isinstance(results := json.loads(path.read_text()), dict) and 'rows' in results and 'suite' in results
  for row in results['rows']
]


def test_every_stored_result_has_the_digest_of_its_run(tmp_path):
  assert len(STORED) >= 466
  for results, row in STORED:
    of = planning.run_of(results['suite'], row['variant'], results['budget'], tmp_path, row['seed'])
    assert of.digest == row['digest'], of


def test_a_later_setting_counts_where_it_differs_from_what_runs_did_before(monkeypatch):
  config = frozen_recipe.get_config()
  digest = frozen_recipe.digest_of(config)
  with config.unlocked():
    config.loss.later = 2
  assert frozen_recipe.digest_of(config) != digest
  later = {**configuration.later_settings(), 'loss.later': 2}
  monkeypatch.setattr(configuration, 'later_settings', lambda: later)
  assert frozen_recipe.digest_of(config) == digest
  config.loss.later = 3
  assert frozen_recipe.digest_of(config) != digest


def test_a_later_setting_of_no_section_or_of_a_new_one_keeps_digests_too(monkeypatch):
  config = frozen_recipe.get_config()
  digest = frozen_recipe.digest_of(config)
  with config.unlocked():
    config.later, config.section = 2, {'setting': 3}
  later = {**configuration.later_settings(), 'later': 2, 'section.setting': 3}
  monkeypatch.setattr(configuration, 'later_settings', lambda: later)
  assert frozen_recipe.digest_of(config) == digest


def test_every_setting_says_what_runs_before_it_did_unless_the_frozen_recipe_has_it():
  names = set(configuration.name_settings(configuration.default_config().to_dict()))
  assert names - frozen_recipe.frozen_names() <= set(configuration.later_settings())


def test_suites_keep_their_recipe_when_defaults_change(monkeypatch):
  digest = frozen_recipe.digest_of(frozen_recipe.get_config())
  defaults = configuration.default_config()
  defaults.training.steps = 7
  defaults.loss.distillation_weight = 0.25
  monkeypatch.setattr(configuration, 'default_config', defaults.copy_and_resolve_references)
  changed = runpy.run_path(suites.CONFIG)['get_config']()  # As train.py loads it.
  assert changed.training.steps == 2400 and frozen_recipe.digest_of(changed) == digest
