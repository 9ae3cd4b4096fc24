"""Mutations of `trix_jax/training`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'training',
    'trix_jax/training/step.py',
    'test_training test_optimizers test_controls',
    (
      'the_present_is_predicted',
      'transformer.next_token_loss(logits, windows[:, 1:])',
      'transformer.next_token_loss(logits, windows[:, :-1])',
    ),
    ('seed_ignored_at_the_start', 'return init(jax.random.key(config.seed))', 'return init(jax.random.key(0))'),
    (
      'the_same_randomness_at_every_step',
      'key = jax.random.fold_in(key, state.step)',
      'key = jax.random.fold_in(key, 0)',
    ),
    (
      'the_same_randomness_on_every_device',
      'key = jax.random.fold_in(key, jax.lax.axis_index(devices.AXIS))',
      'key = jax.random.fold_in(key, 0)',
    ),
    (
      'the_same_randomness_in_every_part',
      'state.routing_state, part_windows, jax.random.fold_in(key, part)\n',
      'state.routing_state, part_windows, key\n',
    ),
    ('gradients_of_parts_summed', 'lambda leaf: leaf / parts', 'lambda leaf: leaf'),
    (
      'gradients_of_devices_summed',
      'return jax.lax.pmean(result, devices.AXIS)',
      'return jax.lax.psum(result, devices.AXIS)',
    ),
    (
      'balance_loss_of_one_device',
      'loads = [jax.lax.pmean(metrics[name], devices.AXIS) for name in',
      'loads = [metrics[name] for name in',
    ),
    ('balance_loss_left_out', 'objective += settings.balance_weight * jnp.mean(', 'objective += 0 * jnp.mean('),
    ('diversity_loss_left_out', 'objective += settings.diversity_weight * jnp.mean(', 'objective += 0 * jnp.mean('),
    (
      'teacher_and_text_swapped',
      '(1 - weight) * loss + weight * teacher.cross_entropy(',
      'weight * loss + (1 - weight) * teacher.cross_entropy(',
    ),
    (
      'a_step_that_is_not_finite_is_taken',
      'valid = finite & (state.step == index)',
      'valid = state.step == index',
    ),
    ('steps_after_a_bad_one_are_taken', 'valid = finite & (state.step == index)', 'valid = finite'),
  ),
  *break_file(
    'training',
    'trix_jax/training/optimizers.py',
    'test_optimizers test_training',
    (
      'muon_takes_all_tiles_as_one_matrix',
      'contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)',
      'contrib.MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=2)',
    ),
    (
      'muon_leaves_attention_out',
      "if 'attention' in names and names[-1] == 'kernel':",
      "if 'attention' in names and names[-1] == 'kernels':",
    ),
    ('what_is_held_trains', "'held': optax.set_to_zero()", "'held': whole"),
    ('what_is_held_has_a_gradient', "of if mark == 'trained' else jax.lax.stop_gradient(of)", 'of'),
    ('no_warm_up', 'warmup = min(round(settings.warmup_fraction * steps), steps - 1)', 'warmup = 0'),
    ('schedule_ends_at_zero', 'end_value=settings.final_fraction * peak', 'end_value=0.0'),
    ('weight_decay_never_ends', '{end: 0.0} if end < steps else None', 'None'),
    ('weight_decay_of_matrices_only', '      adam_weight_decay=decay,\n', ''),
    ('gradients_are_not_clipped', 'optax.clip_by_global_norm(settings.clip_norm)', 'optax.identity()'),
  ),
  *break_file(
    'training',
    'trix_jax/training/routing_state.py',
    'test_indexed_ffn test_training',
    (
      'averages_forget_at_once',
      "decay * state['average'] + (1 - decay) * signatures_TD",
      "(1 - decay) * state['average'] + decay * signatures_TD",
    ),
    (
      'clusters_are_never_rebuilt',
      'rebuild = (step + 1) % config.hierarchy.rebuild_every == 0',
      'rebuild = step < 0',
    ),
    (
      'clusters_grow_from_those_that_biases_adapted_to',
      'if indexed_ffn.carries_biases(config.model.ffn):',
      'if False:',
    ),
    ('routing_never_freezes', 'frozen = (step >= round(', 'frozen = (step >= 2 * config.training.steps + round('),
    ('dead_tiles_stay_dead', 'dead_T = T * load_T < below', 'dead_T = load_T < 0'),
    (
      'revived_tile_copies_the_idlest',
      'jnp.argsort(-load_T)[rank_T',
      'jnp.argsort(load_T)[rank_T',
    ),
  ),
  *break_file(
    'training',
    'trix_jax/training/loop.py',
    'test_command_lines test_processes',
    ('a_signal_saves_nothing', '      save(step, state)\n', ''),
    ('training_goes_on_without_a_number', "if not values['finite']:", 'if not len(values):'),
    ('resuming_counts_from_zero', 'first_step = config.training, int(state.step)', 'first_step = config.training, 0'),
    (
      'every_step_sees_the_first_batch',
      'train_step(state, batch(step), step)',
      'train_step(state, batch(0), step)',
    ),
    (
      'a_lost_checkpoint_starts_over',
      'if reached > config.training.checkpoint_every:',
      'if reached > config.training.steps:',
    ),
  ),
  *break_file(
    'training',
    'trix_jax/training/hooks.py',
    'test_command_lines test_processes',
    ('the_worst_checkpoint_is_best', 'self.loss < self.best_loss:', 'self.loss > self.best_loss:'),
    (
      'the_last_step_is_not_evaluated',
      'return step % self.settings.eval_every == 0 or step == self.settings.steps',
      'return step % self.settings.eval_every == 0 and step != self.settings.steps',
    ),
  ),
  *break_file(
    'training',
    'trix_jax/training/warm_start.py',
    'test_warm_start',
    ('new_tiles_are_those_of_the_earlier_model', "'ffn': state.params[name]['ffn']", "'ffn': params[name]['ffn']"),
    ('another_model_accepted_to_start_from', 'and theirs[key] != ours[key]', 'and theirs[key] is None'),
    (
      'the_index_of_an_earlier_run_is_lost',
      'routing_state=trained.routing_state if alike else state.routing_state',
      'routing_state=state.routing_state',
    ),
    (
      'teacher_of_another_vocabulary_accepted',
      'if trained.vocabulary != corpus.vocabulary:',
      'if not trained.vocabulary:',
    ),
  ),
  *break_file(
    'training',
    'trix_jax/training/naming.py',
    'test_naming',
    ('names_change_what_is_asked', '= jax.lax.stop_gradient(asked)', '= asked'),
    ('names_need_not_win_their_text', 'jnp.mean(jax.nn.softplus(-lead_N)) + ', ''),
    ('the_host_is_not_protected', 'jax.nn.softplus(over_N)', 'jax.nn.softplus(0.0 * over_N)'),
    ('the_host_counts_no_more_than_the_new_text', 'WINDOWS, HOST_WEIGHT = 32, 4.0', 'WINDOWS, HOST_WEIGHT = 32, 1.0'),
    ('names_beat_no_signature_of_the_host', ' - score_best(host.key_TD, host.scale_T, asked, config)', ''),
    ('any_host_is_named_against', '  grafting.require_host(config)\n', ''),
  ),
)
