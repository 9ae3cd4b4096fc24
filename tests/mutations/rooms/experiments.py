"""Mutations of the experiments."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'experiments',
    'experiments/runner/planning.py',
    'test_experiments',
    (
      'digest_depends_on_the_folder',
      'recipe.digest_of(config_of(portable))',
      'recipe.digest_of(config_of(settings))',
    ),
  ),
  *break_file(
    'experiments',
    'experiments/suites/frozen_recipe.py',
    'test_experiments',
    (
      'digest_forgets_the_settings',
      'text = json.dumps(settings, ',
      'text = json.dumps({}, ',
    ),
    ('later_settings_always_count', 'if name not in frozen and ', 'if False and '),
    ('later_settings_never_count', ' and part[last] == before:', ':'),
    ('earlier_settings_do_not_count', 'if name not in frozen and ', 'if '),
  ),
  *break_file(
    'experiments',
    'experiments/findings/estimates.py',
    'test_report',
    ('intervals_of_90_percent', 'CONFIDENCE = 0.95', 'CONFIDENCE = 0.9'),
    (
      'differences_the_wrong_way_round',
      'of_difference(first[seed] - second[seed])',
      'of_difference(second[seed] - first[seed])',
    ),
    ('spread_divided_by_all_seeds', 'ddof=1', 'ddof=0'),
  ),
  *break_file(
    'experiments',
    'experiments/findings/verdicts.py',
    'test_report',
    ('undecided_intervals_decide', 'if estimate.low <= limit <= estimate.high:', 'if estimate.high < estimate.low:'),
    ('one_seed_decides', 'if seeds > 1 and true is not None:', 'if seeds > 0 and true is not None:'),
  ),
  *break_file(
    'experiments',
    'experiments/suites/four_routings.py',
    'test_report',
    (
      'five_percent_are_fifty',
      "0.05,\n      'the original ignored its gate in training'",
      "0.5,\n      'the original ignored its gate in training'",
    ),
  ),
  *break_file(
    'experiments',
    'experiments/suites/graft.py',
    'test_report',
    ('a_reading_is_the_best_by_one_text', "(row['donor'] + row['host']) / 2", "row['donor']"),
    ('half_of_the_gain_is_enough', 'LEAST_R, MOST_F = 0.7, 0.01', 'LEAST_R, MOST_F = 0.5, 0.01'),
    ('grafts_may_cost_the_host_more', 'LEAST_R, MOST_F = 0.7, 0.01', 'LEAST_R, MOST_F = 0.7, 0.1'),
    ('named_donors_are_plain_ones', "    if result['variant'] != variant:\n      continue\n", ''),
  ),
  *break_file(
    'experiments',
    'experiments/findings/grafted.py',
    'test_grafted',
    ('energy_grows_with_scales', ' / jnp.maximum(jnp.sum(square_TH * norm_TH, axis=-1), 1e-30)', ''),
    (
      'directions_have_a_sign',
      "jnp.abs(dequantise(asked) @ layer['directions_TDE'][..., 0].T)",
      "dequantise(asked) @ layer['directions_TDE'][..., 0].T",
    ),
    ('spectra_are_flat', "along_NTE * layer['stretch_TE']", 'along_NTE'),
    ('ties_leave_the_host', 'keepdims=True) > own_NT.max', 'keepdims=True) >= own_NT.max'),
    ('a_key_moves_tokens_inside_the_host', 'routing.select(vote_NT[:, :host_tiles], 1)', 'routing.select(own_NT, 1)'),
    ('tiles_of_the_host_get_other_keys', 'key_TD.at[first:].set(', 'key_TD.at[:].set('),
    (
      'ridge_takes_the_other_text',
      'np.repeat([-1.0, 1.0], [len(x_host), len(x_donor)])',
      'np.repeat([1.0, -1.0], [len(x_host), len(x_donor)])',
    ),
  ),
  *break_file(
    'experiments',
    'experiments/runner/results_file.py',
    'test_experiments test_report',
    ('results_doubled', 'if seen.count(of) > 1', 'if seen.count(of) > 2'),
    ('results_of_another_budget_lost', "if results['budget'] != budget:", "if not results['budget']:"),
  ),
  *break_file(
    'experiments',
    'experiments/run.py',
    'test_experiments',
    (
      'a_suite_starts_over',
      "if known := [row for row in rows if row['digest'] == run.digest]:",
      "if known := [row for row in rows if row['digest'] is run]:",
    ),
    ('failed_runs_are_not_told', '      failed += 1\n', ''),
    (
      'results_of_other_versions_taken',
      "and row['versions'] == workdirs.read_versions() and",
      'and',
    ),
  ),
  *break_file(
    'experiments',
    'experiments/report/page.py',
    'test_report',
    ('differences_are_not_drawn', 'if gaps := judgement.gaps(name, rows):', 'if gaps := judgement.gaps(name, []):'),
    ('failures_are_not_told', "failed else ''", "not failed else ''"),
  ),
  *break_file(
    'experiments',
    'experiments/suites/suite.py',
    'test_experiments',
    (
      'a_run_that_goes_on_sees_the_same_text',
      "'training.start_from' in own else 0)",
      "'training.start_from' in () else 0)",
    ),
  ),
  *break_file(
    'experiments',
    'experiments/findings/forced.py',
    'test_forced_tiles',
    (
      'changed_tokens_do_not_see_themselves',
      'earlier_QK, same_QK = np.tri(L, k=-1, dtype=bool), np.eye(L, dtype=bool)',
      'earlier_QK, same_QK = np.tri(L, k=-1, dtype=bool), np.zeros((L, L), dtype=bool)',
    ),
    (
      'changed_tokens_are_convolved_with_changed_ones',
      "of_layer[name]['taps'], B if alone else len(x_BPD)",
      "of_layer[name]['taps'], len(x_BPD)",
    ),
  ),
  *break_file(
    'experiments',
    'experiments/findings/best_tiles.py',
    'test_forced_tiles',
    ('luck_borrows_from_the_same_token', 'jnp.roll(change_TND, N // 2 + 1, axis=1)', 'jnp.roll(change_TND, 0, axis=1)'),
    (
      'gate_is_fitted_to_the_worst_tile',
      'jax.grad(expected_loss)(gate',
      'jax.grad(lambda *of: -expected_loss(*of))(gate',
    ),
  ),
  *break_file(
    'experiments',
    'experiments/findings/stand_ins.py',
    'test_forced_tiles',
    (
      'tiles_are_matched_with_the_least_alike',
      'linear_sum_assignment(likeness_TT, maximize=True)',
      'linear_sum_assignment(likeness_TT)',
    ),
    (
      'rotation_the_other_way',
      'return (left_DD @ right_DD).astype(np.float32)',
      'return (left_DD @ right_DD).T.astype(np.float32)',
    ),
  ),
  *break_file(
    'experiments',
    'experiments/findings/readings.py',
    'test_forced_tiles',
    (
      'tokens_of_a_removed_tile_keep_its_gate',
      'left_N1 = 1 - info.probability_NJ[:, tile, None]',
      'left_N1 = jnp.ones((len(choice_N1), 1))',
    ),
  ),
  *break_file(
    'experiments',
    'experiments/texts/king_james.py',
    'test_texts',
    ('any_bible_is_the_king_james', 'if hashlib.sha256(found.encode()).hexdigest() != SHA256:', 'if not found:'),
  ),
  *break_file(
    'experiments',
    'experiments/findings/measure.py',
    'test_experiments',
    ('chance_is_the_least_of_the_tables', "'most': float(np.max(values))", "'most': float(np.min(values))"),
  ),
  *break_file(
    'experiments',
    'experiments/findings/edited.py',
    'test_edits_suite',
    (
      'stale_keys_are_not_carried_to_the_tiles_that_came',
      'key_TD = edits.carry(changes[layer], key_TD)',
      'key_TD = key_TD[: len(changes[layer].carry_XT)]',
    ),
  ),
  *break_file(
    'experiments',
    'experiments/suites/edits.py',
    'test_report',
    ('a_stale_row_is_judged_in_another_model', "'stale_row': 'learned'", "'stale_row': 'emergent'"),
    (
      'one_stale_key_beaten_is_enough',
      'won = [edit for edit in PRIMARY if all(',
      'won = [edit for edit in PRIMARY if any(',
    ),
  ),
  *break_file(
    'experiments',
    'experiments/runner/jobs.py',
    'test_jobs test_experiments',
    ('jobs_share_one_core', 'set(cores[job::count])', 'set(cores[::count])'),
    ('a_stop_leaves_programs_running', '        program.terminate()\n', '        program.poll()\n'),
  ),
)
