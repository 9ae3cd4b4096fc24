"""The table of mutations: what is broken, where, and which tests should notice.

`old` stands in `file` exactly once. The mutation replaces it by `new`. `tests/test_mutations.py` checks that, so code
that moves takes its mutations along. A mutation that changes nothing a user could observe does not belong here.
"""

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


def _in(room: str, file: str, tests: str, *mutations: tuple[str, str, str], path: str = '') -> tuple[Mutation, ...]:
  """Mutations (name, old, new) of one file; `tests` are names without `tests/` and `.py`."""
  files = tuple(f'tests/{test}.py' for test in tests.split())
  return tuple(Mutation(name, room, file, old, new, files, path) for name, old, new in mutations)


CORE = (
  *_in(
    'core',
    'trix_jax/core/ternary.py',
    'test_ternary test_ffn',
    (
      'int8_factor_rounded_in_another_order',
      'scaled = x * jnp.where(nonzero, INT8_MAX / jnp.where(nonzero, a, 1.0), 0.0)',
      'scaled = jnp.where(nonzero, (x * INT8_MAX) / jnp.where(nonzero, a, 1.0), 0.0)',
    ),
    (
      'int8_rounds_half_up',
      'return straight_through(jnp.round(scaled), scaled)',
      'return straight_through(jnp.floor(scaled + 0.5), scaled)',
    ),
    ('tiny_rows_are_scaled', 'nonzero = a >= TINY', 'nonzero = a > 0'),
    (
      'straight_through_has_the_gradient_of_its_value',
      'return primals[0], tangents[1]',
      'return primals[0], tangents[0]',
    ),
    (
      'threshold_gradient_is_not_cut',
      'straight_through(codes, jnp.clip(latent, -GRADIENT_CUT, GRADIENT_CUT))',
      'straight_through(codes, latent)',
    ),
    (
      'one_scale_for_all_tiles',
      'jnp.mean(jnp.abs(latent), axis=(-2, -1), keepdims=True)',
      'jnp.mean(jnp.abs(latent)) * jnp.ones_like(latent[..., :1, :1])',
    ),
  ),
  *_in(
    'core',
    'trix_jax/core/signatures.py',
    'test_signatures test_ffn',
    (
      'signature_read_from_latent_weights',
      'tally_TD = jax.lax.stop_gradient(codes_TDH).sum(axis=-1)',
      'tally_TD = jnp.round(jax.lax.stop_gradient(latent_TDH).sum(axis=-1))',
    ),
    (
      'signature_without_gradient',
      'return with_gradient_of(value_TD, latent_TDH.sum(axis=-1)), scale_of(value_TD, kind)',
      'return jax.lax.stop_gradient(value_TD), scale_of(value_TD, kind)',
    ),
    (
      'signature_gradient_not_brought_to_size',
      'latent_TD * (rms(value_TD) / jnp.where(latent_rms_T1 > 0, latent_rms_T1, 1.0))',
      'latent_TD',
    ),
    (
      'signature_scale_left_out',
      'return jnp.where(rms_T > 0, 1.0 / jnp.where(rms_T > 0, rms_T, 1.0), 0.0)',
      'return jnp.ones_like(rms_T)',
    ),
    ('tallies_beyond_int8', 'jnp.clip(tally_TD, -ternary.INT8_MAX, ternary.INT8_MAX)', 'tally_TD'),
    (
      'diversity_counts_tiles_with_themselves',
      'jnp.sum(jnp.square(count_3D), axis=0)) / (T * (T - 1))',
      'jnp.sum(jnp.square(count_3D), axis=0)) / (T * T)',
    ),
    (
      'diversity_loss_without_gradient',
      'unit_TD = signatures_TD / jnp.sqrt(',
      'unit_TD = jax.lax.stop_gradient(signatures_TD) / jnp.sqrt(',
    ),
  ),
  *_in(
    'core',
    'trix_jax/core/routing.py',
    'test_routing test_tile_index test_ffn test_inference',
    (
      'ties_go_to_the_last_tile',
      'return jnp.argmax(selection_NJ, axis=-1, keepdims=True).astype(jnp.int32)',
      'last_N1 = jnp.argmax(selection_NJ[:, ::-1], axis=-1, keepdims=True)\n'
      '    return (selection_NJ.shape[-1] - 1 - last_N1).astype(jnp.int32)',
    ),
    ('top_k_comes_worst_first', 'top_k)[1].astype(jnp.int32)', 'top_k)[1][:, ::-1].astype(jnp.int32)'),
    ('zeros_of_both_signs_differ', 'jnp.where(selection_NJ == 0, 0.0, selection_NJ)', 'selection_NJ'),
    (
      'scores_and_bias_rounded_in_another_order',
      'return (dot_NJ + jnp.where(scale > 0, bias / jnp.where(scale > 0, scale, 1.0), 0.0)) * scale',
      'return dot_NJ * scale + jnp.where(scale > 0, bias, 0.0)',
    ),
    ('wide_keys_are_not_exact', 'if 127 * 127 * q.shape[-1] < 2**24:', 'if q.shape[-1]:'),
    (
      'one_hot_gate_without_gradient',
      'ternary.straight_through(jnp.ones_like(probability_NK), probability_NK)',
      'jnp.ones_like(probability_NK)',
    ),
    ('probability_gate_is_one', '  return probability_NK\n', '  return jnp.ones_like(probability_NK)\n'),
    (
      'probability_gate_without_gradient',
      '  return probability_NK\n',
      '  return jax.lax.stop_gradient(probability_NK)\n',
    ),
    (
      'margin_in_units_of_integers',
      'return (score_NK[:, :1] - score_NK) * step_N1 > margin',
      'return score_NK[:, :1] - score_NK > margin',
    ),
    ('load_counts_padding', 'count_NK *= weight_N[:, None]', 'count_NK *= jnp.ones_like(weight_N)[:, None]'),
    (
      'balance_loss_without_gradient',
      'jnp.sum(load_T * info.probability_NJ.mean(axis=0))',
      'jnp.sum(load_T * jax.lax.stop_gradient(info.probability_NJ).mean(axis=0))',
    ),
    (
      'balance_loss_forgets_clusters',
      'return (of_tiles + mean_C.shape[0] * jnp.sum(jax.lax.stop_gradient(cluster_load_C) * mean_C)) / 2',
      'return of_tiles',
    ),
    ('balance_bias_moves_the_wrong_way', '-jnp.sign(surplus_T), 0.0)', 'jnp.sign(surplus_T), 0.0)'),
    ('balance_bias_without_its_unit', 'rate * score_std * direction_T', 'rate * direction_T'),
  ),
  *_in(
    'core',
    'trix_jax/core/dispatch.py',
    'test_dispatch test_ffn',
    (
      'dispatch_takes_a_token_of_the_next_tile',
      'rank_GR < count_T[tile_G][:, None]',
      'rank_GR <= count_T[tile_G][:, None]',
    ),
    ('dispatch_gives_blocks_to_the_tile_before', "side='right'", "side='left'"),
    ('dispatch_lacks_a_block', 'min(tiles, A) - 1\n', 'min(tiles, A) - 2\n'),
    (
      'dispatch_gradient_of_the_first_tile_only',
      'grad_SX[slot_A].reshape(N, -1, grad_SX.shape[-1]).sum(axis=1)',
      'grad_SX[slot_A].reshape(N, -1, grad_SX.shape[-1])[:, 0]',
    ),
  ),
  *_in(
    'core',
    'trix_jax/core/layers.py',
    'test_transformer test_inference test_golden_model',
    ('convolution_runs_backwards', 'sum(taps_WD[lag] * x_BPD', 'sum(taps_WD[before - lag] * x_BPD'),
    (
      'the_convolution_remembers_padding',
      'index_BW = length_B[:, None] + jnp.arange(count)',
      'index_BW = 0 * length_B[:, None] + padded_BPD.shape[1] - count + jnp.arange(count)',
    ),
    ('dropout_loses_the_mean', 'x * (256 / (256 - dropped))', 'x'),
    (
      'projection_gradient_of_one_window',
      "jnp.einsum('bld,ble->bde', x_BLD, grad_BLE).sum(axis=0)",
      "jnp.einsum('bld,ble->bde', x_BLD, grad_BLE)[0]",
    ),
  ),
  *_in(
    'core',
    'trix_jax/core/attention.py',
    'test_transformer test_golden_model',
    (
      'attention_sees_the_next_character',
      'np.arange(start, end)[:, None] >= np.arange(end)',
      'np.arange(start, end)[:, None] + 1 >= np.arange(end)',
    ),
    (
      'attention_gradient_without_its_mean',
      'weight_BHKQ * (grad_weight_BHKQ - mean_BHL[:, :, None, start:])',
      'weight_BHKQ * grad_weight_BHKQ',
    ),
    ('rotary_angles_of_half_the_width', '(-np.arange(half) / half)', '(-np.arange(half) / (2 * half))'),
  ),
  *_in(
    'core',
    'trix_jax/core/tile_index.py',
    'test_tile_index test_indexed_ffn',
    ('clusters_of_unequal_size', 'set(rank_T >= T // C)', 'set(rank_T >= T // C + 1)'),
    ('clusters_never_improve', '(state[0] < iterations)', '(state[0] < 1)'),
    (
      'probes_in_order_of_score',
      'cluster_NP = jnp.sort(routing.select(selection_NC, probes), axis=-1)',
      'cluster_NP = routing.select(selection_NC, probes)',
    ),
    (
      'cluster_bias_ignored',
      'routing.selection_scores(cluster_dot_NC, index.cluster_scale_C, cluster_bias_C)',
      'routing.selection_scores(cluster_dot_NC, index.cluster_scale_C, None)',
    ),
    (
      'score_of_a_cluster_is_the_sum_of_its_members',
      'cluster_scale_C = step_C * np.float32(1 / member_CM.shape[1])',
      'cluster_scale_C = step_C',
    ),
    ('clusters_carry_the_least_bias', 'return bias_CM.max(axis=1)', 'return bias_CM.min(axis=1)'),
    (
      'mean_bias_in_the_order_of_the_compiler',
      'return total_C * np.float32(1 / bias_CM.shape[1])',
      'return bias_CM.mean(axis=1)',
    ),
  ),
)

NN = (
  *_in(
    'nn',
    'trix_jax/nn/ffn.py',
    'test_ffn test_packed_layer test_inference test_indexed_ffn',
    (
      'accumulators_rescaled_in_another_order',
      'return (accumulator * step) * scale',
      'return accumulator * (step * scale)',
    ),
    ('tile_scale_left_out', "up_T11[:, 0] * params['up_scale']", "params['up_scale']"),
    (
      'output_scale_left_out',
      "down_scale_TD = down_scale_TD * params['output_scale'][:, None]",
      "down_scale_TD = down_scale_TD * jnp.ones_like(params['output_scale'])[:, None]",
    ),
    (
      'hidden_activations_stay_float',
      'ACTIVATIONS[config.activation](hidden_GRH), config.int8_activations)',
      'ACTIVATIONS[config.activation](hidden_GRH), False)',
    ),
    (
      'dense_tiles_share_their_quantisation',
      'ACTIVATIONS[config.activation](hidden_NTH), config.int8_activations)\n',
      'ACTIVATIONS[config.activation](hidden_NTH).reshape(N, 1, T * H), config.int8_activations)\n'
      '  q_NTH = q_NTH.reshape(N, T, H)\n',
    ),
    (
      'tiles_start_dead',
      'nn.initializers.normal(D**-0.5), nn.initializers.normal(config.d_ff**-0.5)',
      'nn.initializers.normal(D**-0.5), nn.initializers.zeros',
    ),
    (
      'silent_tiles_are_never_dead',
      'jnp.max(jnp.abs(compute_tile_outputs(probe_ND, tiles, config)), axis=(1, 2)) == 0',
      'jnp.max(jnp.abs(compute_tile_outputs(probe_ND, tiles, config)), axis=(1, 2)) < 0',
    ),
    (
      'every_tile_has_the_gate_of_the_best',
      'out_AD.reshape(tile_NK.shape + (-1,)), gate_NK)',
      'out_AD.reshape(tile_NK.shape + (-1,)), 0 * gate_NK + gate_NK[:, :1])',
    ),
  ),
  *_in(
    'nn',
    'trix_jax/nn/indexed_ffn.py',
    'test_indexed_ffn test_inference',
    (
      'signatures_of_now_route_instead_of_averages',
      "return tile_index.make_index(state['average'], ",
      "return tile_index.make_index(state['average'] if signatures_TD is None else signatures_TD, ",
    ),
    (
      'frozen_routing_gets_a_gradient',
      "signatures_TD = signatures_TD * (1 - state['frozen'])",
      'signatures_TD = signatures_TD',
    ),
    (
      'a_cluster_never_carries_biases',
      "return config.balance_bias and config.cluster_bias != 'own'",
      'return False',
    ),
    ('indexed_block_without_its_residual', 'return x + y, info', 'return y, info'),
    (
      'indexed_layer_without_its_norm',
      "x_ND = nn.RMSNorm(name='norm')(x_ND)",
      "x_ND = 0 * nn.RMSNorm(name='norm')(x_ND) + x_ND",
    ),
  ),
  *_in(
    'nn',
    'trix_jax/nn/router.py',
    'test_ffn test_indexed_ffn test_inference test_packed_layer',
    (
      'probability_without_the_root_of_the_width',
      'score_NJ * step_N1 * config.d_model**-0.5',
      'score_NJ * step_N1',
    ),
    (
      'every_routing_goes_through_the_index',
      'elif router.index is not None and way.uses_index:',
      'elif router.index is not None:',
    ),
    (
      'routing_forgets_the_bias',
      'routing.selection_scores(dot_NJ, scale, bias)',
      'routing.selection_scores(dot_NJ, scale, None)',
    ),
  ),
  *_in(
    'nn',
    'trix_jax/nn/transformer.py',
    'test_transformer test_controls test_inference test_golden_model',
    ('block_without_its_residual', 'x_BLD + y_BLD if parts.has_residual else y_BLD', 'y_BLD'),
    (
      'attention_without_its_residual',
      'x_BLD = x_BLD + parts.drop_out(parts.project_out(',
      'x_BLD = parts.drop_out(parts.project_out(',
    ),
  ),
  *_in(
    'nn',
    'trix_jax/nn/controls.py',
    'test_controls',
    ('tile_dropout_loses_the_mean', 'gate_NK=2.0 * info.gate_NK * kept_NT', 'gate_NK=info.gate_NK * kept_NT'),
    ('gradual_sparsity_goes_backwards', "'tiles'), 1 - progress, ", "'tiles'), progress, "),
  ),
  *_in(
    'nn',
    'trix_jax/nn/ffn.py',
    'test_addresses',
    (
      'tiles_by_token_compute_the_embedding',
      'return execute(stream.q_ND, stream.step_N1,',
      'return execute(*choose_asked(config, stream, tokens)[1:],',
    ),
    (
      'a_layer_without_tokens_asks_its_stream',
      "  if config.address == 'stream':\n",
      "  if config.address == 'stream' or tokens is None:\n",
    ),
  ),
  *_in(
    'nn',
    'trix_jax/nn/transformer.py',
    'test_addresses',
    (
      'embeddings_teach_no_address',
      '= layers.normalise_rms(x_BLD) if',
      '= layers.normalise_rms(jax.lax.stop_gradient(x_BLD)) if',
    ),
  ),
  *_in(
    'nn',
    'trix_jax/nn/controls.py',
    'test_controls',
    ('a_redrawn_hash_stays', '(step + 1) // REDRAWN_AFTER', '0 * step // REDRAWN_AFTER'),
    (
      'the_hash_of_the_token_before_is_its_own',
      'jnp.roll(_tokens(given).number, 1, axis=-1)',
      'jnp.roll(_tokens(given).number, 0, axis=-1)',
    ),
    ('rare_tokens_are_dealt_first', 'order_V = jnp.argsort(-share_V)', 'order_V = jnp.argsort(share_V)'),
    ('a_balanced_hash_is_dealt_at_every_step', 'jnp.where(step == 0, dealt_V,', 'jnp.where(step >= 0, dealt_V,'),
  ),
)

EDITING = (
  *_in(
    'editing',
    'trix_jax/editing/grafting.py',
    'test_grafting',
    ('a_donor_of_any_host', 'if name := _different_around_tiles(params, donor.params):', "if name := '':"),
    (
      'grafted_tiles_are_those_of_the_host',
      "_take_tiles(of_model[name]['ffn'], model)",
      "_take_tiles(params[name]['ffn'], config)",
    ),
    ('any_gate_is_grafted', "or ffn.gate != 'one_hot' or ffn.balance_bias", 'or ffn.balance_bias'),
    ('donors_of_any_width', "'d_ff / tiles': model.ffn.hidden", "'d_ff / tiles': 0"),
    ('donors_of_any_number_of_tiles', 'or computed != config.ffn.top_k', ''),
  ),
  *_in(
    'editing',
    'trix_jax/editing/latent_weights.py',
    'test_carving',
    ('carving_changes_codes', 'jnp.where(kept_T11, latent_TXY, codes_TXY)', 'latent_TXY'),
  ),
  *_in(
    'editing',
    'trix_jax/editing/carving.py',
    'test_carving',
    (
      'carved_units_share_the_scale_of_their_tile',
      'units.up_scale_F[member_TH] *',
      'units.up_scale_F[member_TH].mean(axis=1, keepdims=True) *',
    ),
    (
      'carved_tiles_forget_what_absmean_reads',
      "'up_scale': up_scale_TH / up_step_T[:, None],",
      "'up_scale': up_scale_TH,",
    ),
    (
      'carving_clusters_units_by_their_outputs',
      'return gather(units.up_FD, tiles, layer)',
      'return gather(units.down_FD, tiles, layer)',
    ),
    (
      'a_swap_is_judged_by_one_of_its_groups',
      ' + np.sqrt(np.maximum(of_other_F, 0)) - length_T[tile_F]',
      '',
    ),
    ('any_model_is_carved', 'if not config.ffn.way.takes_all or', 'if'),
  ),
  *_in(
    'editing',
    'trix_jax/editing/edits.py',
    'test_editing',
    (
      'a_removed_tile_leaves_its_column',
      "carry_rows(order, config.tiles), f'tile {tile} is gone'",
      "carry_rows(range(len(order)), config.tiles), f'tile {tile} is gone'",
    ),
    ('edited_tiles_share_their_scales', 'dataclasses.replace(config.ffn, shared_down_scale=False)', 'config.ffn'),
    (
      'balance_biases_stay_as_they_were',
      "new_state[name] = {'ffn': {key: carry(change, value_T) for key, value_T in state.items()}}",
      "new_state[name] = {'ffn': state}",
    ),
  ),
  *_in(
    'editing',
    'trix_jax/editing/merging.py',
    'test_editing',
    ('one_tile_of_a_pair_votes', 'jnp.sign(up_2HD.sum(axis=0))', 'jnp.sign(up_2HD[0])'),
    (
      'merged_units_meet_in_their_order',
      'return second_H[jnp.argsort(tile_index.balanced_assignment(cosine_HH))]',
      'return second_H',
    ),
  ),
  *_in(
    'editing',
    'trix_jax/editing/pruning.py',
    'test_editing',
    ('units_weigh_without_their_output', 'active_TH * size_TH ** (1 / carving.activation_power(config))', 'active_TH'),
  ),
  *_in(
    'editing',
    'trix_jax/editing/splitting.py',
    'test_editing',
    (
      'halves_are_cut_in_order',
      'half_2X = carving.gather(units.up_FD[own], 2, seed)',
      'half_2X = jnp.arange(H).reshape(2, -1)',
    ),
    ('halves_put_out_twice_as_much', 'factor = 0.5 **', 'factor = 1.0 **'),
  ),
  *_in(
    'editing',
    'trix_jax/nn/cost.py',
    'test_carving',
    ('routing_costs_nothing', 'routing = scored * D if', 'routing = 0 * D if'),
    ('an_index_scores_all_tiles', 'if C and way.uses_index else T', 'if C and not way.uses_index else T'),
  ),
)

DATA = (
  *_in(
    'data',
    'trix_jax/data/corpora.py',
    'test_data test_training',
    ('batches_forget_the_seed', 'np.random.Philox(key=[seed, epoch])', 'np.random.Philox(key=[0, epoch])'),
    ('every_epoch_is_the_first', 'np.random.Philox(key=[seed, epoch])', 'np.random.Philox(key=[seed, 0])'),
    (
      'batches_forget_the_step',
      'index = np.arange(step * batch_size, (step + 1) * batch_size)',
      'index = np.arange(batch_size)',
    ),
    (
      'padding_of_the_last_window_counts',
      'return windows, np.minimum(context, targets - np.arange(count) * context)',
      'return windows, np.full(count, context)',
    ),
    (
      'evaluation_windows_overlap',
      'windows = padded[np.arange(count)[:, None] * context +',
      'windows = padded[np.arange(count)[:, None] * (context - 1) +',
    ),
    ('validation_text_lacks_its_first_predecessor', 'tokens[cut - 1 :]', 'tokens[cut:]'),
    (
      'bytes_are_those_of_latin_1',
      "text.encode('utf-8', 'surrogateescape')",
      "text.encode('latin-1', 'replace')",
    ),
    ('decoder_cuts_characters', "encode('ascii', 'surrogateescape'), last", "encode('ascii', 'surrogateescape'), True"),
    ('split_of_another_fraction', 'TRAIN_FRACTION = 0.9', 'TRAIN_FRACTION = 0.8'),
    (
      'damaged_corpus_accepted',
      'if hashlib.sha256(content).hexdigest() != TINYSHAKESPEARE_SHA256:\n    raise InputError(',
      'if not content:\n    raise InputError(',
    ),
    (
      'missing_corpus_swapped_for_another',
      'text = _tinyshakespeare()',
      'try:\n      text = _tinyshakespeare()\n    except InputError:\n      text = _python_stdlib()',
    ),
    ('file_ignored_with_another_corpus', "if (name == 'file') != bool(file):", "if name == 'file' and not file:"),
  ),
)

CONFIGURATION = (
  *_in(
    'configuration',
    'trix_jax/configuration.py',
    'test_configs test_command_lines',
    (
      'earlier_defaults_replace_settings',
      'part.setdefault(last, before)',
      'part[last] = before',
    ),
    ('earlier_configs_are_refused', 'for name, before in later_settings().items():', 'for name, before in {}.items():'),
    ('unknown_settings_accepted', 'if unknown := given - known:', 'if unknown := given - given:'),
  ),
)

RUNS = (
  *_in(
    'runs',
    'trix_jax/runs/checkpoints.py',
    'test_training test_command_lines',
    (
      'optimizer_state_not_restored',
      "state = TrainState(tree['step'], tree['params'], tree.get('opt_state'),",
      "state = TrainState(tree['step'], tree['params'], like.opt_state,",
    ),
    (
      'routing_state_not_restored',
      "tree.get('opt_state'), tree.get('routing', {}))",
      "tree.get('opt_state'), like.routing_state)",
    ),
    (
      'best_loss_forgotten_on_resume',
      'return state, math.nan if best_loss is None else best_loss',
      'return state, math.nan',
    ),
    ('best_checkpoints_beyond_the_step_stay', 'if saved > step:', 'if saved > step + saved:'),
    (
      'another_text_evaluated_silently',
      "if corpus.sha256 != self.run['corpus']['sha256']:",
      "if not self.run['corpus']['sha256']:",
    ),
    ('checkpoints_are_never_deleted', 'max_to_keep=self._keep[kind]', 'max_to_keep=None'),
  ),
  *_in(
    'runs',
    'trix_jax/runs/metrics.py',
    'test_training test_command_lines',
    ('rows_after_the_restored_step_stay', "if (row := _row(line)) and row['step'] <= resume_step", 'if _row(line)'),
    ('rows_of_both_splits_mixed', "split in (None, row['split'])]", 'True]'),
  ),
  *_in(
    'runs',
    'trix_jax/runs/workdirs.py',
    'test_training test_command_lines',
    ('workdir_of_another_config_accepted', '      if changed:\n', '      if not begun:\n'),
    (
      'workdir_of_another_text_accepted',
      "if known['sha256'] != corpus.sha256:",
      "if not known['sha256']:",
    ),
    ('idle_tiles_count_as_active', "'active_per_token': total - idle", "'active_per_token': total"),
    (
      'gate_parameters_not_counted',
      "'routing': transformer.count_parameters([layer.get('gate', {}) for layer in layers])",
      "'routing': transformer.count_parameters([layer.get('gates', {}) for layer in layers])",
    ),
    ('earlier_sessions_forgotten', "run['sessions'].append(session)", "run['sessions'] = [session]"),
  ),
)

SYSTEM = (
  *_in(
    'system',
    'trix_jax/system/files.py',
    'test_files test_artifact',
    (
      'files_written_in_place',
      '    partial.write_bytes(content)\n    partial.replace(os.path.realpath(path))',
      '    path.write_bytes(content)',
    ),
    ('partial_files_left_behind', 'partial.unlink(missing_ok=True)', 'pass'),
    ('links_replaced_by_files', 'partial.replace(os.path.realpath(path))', 'partial.replace(path)'),
  ),
  *_in(
    'system',
    'trix_jax/errors.py',
    'test_command_lines test_experiments test_training',
    ('mistakes_exit_with_success', '\n  exit_code = 2\n', '\n  exit_code = 0\n'),
    ('workdir_in_use_is_an_ordinary_mistake', 'exit_code = 75', 'exit_code = 2'),
  ),
)

TRAINING = (
  *_in(
    'training',
    'trix_jax/training/step.py',
    'test_training test_controls',
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
  *_in(
    'training',
    'trix_jax/training/optimizers.py',
    'test_training',
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
  *_in(
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
  *_in(
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
  *_in(
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
  *_in(
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
)

EVALUATION = (
  *_in(
    'evaluation',
    'trix_jax/evaluation/evaluator.py',
    'test_metrics',
    ('bits_are_not_bits', 'loss / math.log(2)', 'loss * math.log(2)'),
  ),
  *_in(
    'evaluation',
    'trix_jax/evaluation/evaluator.py',
    'test_training test_command_lines',
    (
      'a_character_of_padding_is_evaluated',
      'weight_N = (jnp.arange(loss_BL.shape[1]) < targets[:, None])',
      'weight_N = (jnp.arange(loss_BL.shape[1]) <= targets[:, None])',
    ),
    ('unreached_tiles_are_not_dead', 'int(np.sum(np.asarray(quiet) | (used == 0)))', 'int(np.sum(np.asarray(quiet)))'),
    ('silent_tiles_are_not_dead', 'int(np.sum(np.asarray(quiet) | (used == 0)))', 'int(np.sum(used == 0))'),
    (
      'packed_tiles_never_disagree',
      'jnp.any(a != b, axis=1) & counted_N',
      'jnp.any(a != a, axis=1) & counted_N',
    ),
    (
      'other_routings_keep_the_balance_bias',
      'routing=routing_name, balance_bias=False)',
      'routing=routing_name)',
    ),
  ),
  *_in(
    'evaluation',
    'trix_jax/cli/evaluate.py',
    'test_command_lines',
    ('packed_rows_are_not_written', 'tables.write_rows(path, rows + packed_rows,', 'tables.write_rows(path, rows,'),
  ),
)

INFERENCE = (
  *_in(
    'inference',
    'trix_jax/inference/language_model.py',
    'test_inference',
    (
      'rows_share_one_seed',
      'np.arange(seed, seed + len(rows), dtype=np.uint32)',
      'np.full(len(rows), seed, np.uint32)',
    ),
    ('the_same_noise_at_every_step', 'jax.random.gumbel(jax.random.fold_in(key, step), (', 'jax.random.gumbel(key, ('),
    (
      'temperature_multiplies',
      'scores_BV / jnp.where(warm, temperature, 1.0) + noise_BV',
      'scores_BV * jnp.where(warm, temperature, 1.0) + noise_BV',
    ),
    (
      'one_character_beyond_top_k',
      'config.vocabulary_size - top_k, 1, axis=1',
      'config.vocabulary_size - top_k - 1, 1, axis=1',
    ),
    (
      'a_full_context_keeps_its_oldest_half',
      'text[-_half(context) :] if len(text) > context else text for text in texts',
      'text[: _half(context)] if len(text) > context else text for text in texts',
    ),
    ('one_character_beyond_the_context', 'step + context - filled + 1)', 'step + context - filled + 2)'),
    ('a_long_prompt_is_cut_at_its_end', 'texts = [row[-context:].tolist()', 'texts = [row[:context].tolist()'),
  ),
  *_in(
    'inference',
    'trix_jax/inference/forward.py',
    'test_inference test_golden_model',
    (
      'the_cache_counts_padding',
      'Cache(new_layers, cache.position_B + length_B)',
      'Cache(new_layers, cache.position_B + L)',
    ),
    (
      'positions_start_over',
      'transformer.Positions(cache.position_B[:, None] + jnp.arange(L, dtype=jnp.int32)',
      'transformer.Positions(0 * cache.position_B[:, None] + jnp.arange(L, dtype=jnp.int32)',
    ),
    (
      'packed_layer_forgets_the_margin',
      '    keep_margin=config.keep_margin,\n',
      '',
    ),
  ),
  *_in(
    'inference',
    'trix_jax/inference/weights.py',
    'test_inference test_artifact',
    (
      'packed_scales_in_the_order_of_tiles',
      "'signature_scale': in_order(scale_T)}",
      "'signature_scale': scale_T.reshape(in_order(scale_T).shape)}",
    ),
    (
      'packed_bias_in_the_order_of_tiles',
      "arrays['balance_bias'] = in_order(state['balance_bias'])",
      "arrays['balance_bias'] = state['balance_bias'].reshape(in_order(scale_T).shape)",
    ),
    (
      'packed_index_of_the_signatures_of_now',
      'key_TD, scale_T = index.key_TD, index.scale_T\n',
      'scale_T = index.scale_T\n',
    ),
  ),
  *_in(
    'inference',
    'trix_jax/inference/artifact.py',
    'test_artifact',
    (
      'damaged_arrays_accepted',
      '_require(_sha256(arrays[name].tobytes()) == digests[name], name,',
      '_require(bool(digests[name]), name,',
    ),
    (
      'damaged_description_accepted',
      "_sha256(metadata[name].encode('utf-8', 'surrogatepass')) == digests[name], name,",
      'bool(digests[name]), name,',
    ),
    ('any_tokenizer_is_bytes', "_require(tokenizer == 'byte',", '_require(bool(tokenizer),'),
    ('another_version_accepted', '_require(version in versions, ', '_require(version is not None, '),
    ('first_layout_taken_for_the_present_one', 'if entry.matrix and version == FIRST_VERSION:', 'if version is None:'),
    (
      'another_dtype_accepted',
      'part.get_dtype() == _DTYPES[entry.dtype], name,',
      'part.get_dtype() in _DTYPES.values(), name,',
    ),
    (
      'another_shape_accepted',
      '_require(tuple(part.get_shape()) == entry.shape, name,',
      '_require(len(part.get_shape()) == len(entry.shape), name,',
    ),
    (
      'infinite_scales_accepted',
      '_require(bool((np.abs(array) <= most).all()), name,',
      '_require(not np.isnan(array).any(), name,',
    ),
    (
      'int8_of_minus_128_accepted',
      'int(array.min()) >= -weights.INT8_MAX',
      'int(array.min()) >= -weights.INT8_MAX - 1',
    ),
    (
      'codes_of_three_accepted',
      '_require(not np.any(array & (array >> 1) & 0b010101), name,',
      '_require(not np.any(array & (array >> 1) & 0b010001), name,',
    ),
    (
      'codes_of_minus_two_accepted',
      '_require(not np.any(array >> 6 == 2), name,',
      '_require(not np.any(array >> 6 == 4), name,',
    ),
    (
      'an_index_with_a_tile_twice_accepted',
      'np.array_equal(np.sort(array, axis=None), np.arange(array.size))',
      'bool(array.min() >= 0 and array.max() < array.size)',
    ),
    (
      'superfluous_arrays_accepted',
      "_require(name in entries, name, 'is no array of such a model')",
      "_require(bool(name), name, 'is no array of such a model')",
    ),
  ),
  *_in(
    'inference',
    'trix_jax/inference/weights.py',
    'test_addresses',
    (
      'addresses_of_rounded_embeddings',
      'layers.normalise_rms(embedding_VD)',
      'layers.normalise_rms(jnp.round(embedding_VD * 64) / 64)',
    ),
    (
      'addresses_without_their_gates',
      "return config.gate != 'one_hot' or config.keep_ratio > 0",
      'return config.keep_ratio > 0',
    ),
  ),
  *_in(
    'inference',
    'trix_jax/inference/artifact.py',
    'test_addresses',
    (
      'addresses_of_tiles_that_are_not_there',
      'int(array.max(initial=0)) < entry.below',
      'int(array.max(initial=0)) <= entry.below',
    ),
    ('a_tile_twice_in_an_address', 'ordered[..., 1:] == ordered[..., :-1]', 'ordered[..., 1:] < ordered[..., :-1]'),
  ),
)

INSPECTION = (
  *_in(
    'inspection',
    'trix_jax/evaluation/classes.py',
    'test_training',
    ('mutual_information_is_half', '2 * information / total', 'information / total'),
  ),
  *_in(
    'inspection',
    'trix_jax/inspection/tile_cards.py',
    'test_tile_cards',
    (
      'margin_to_the_tile_itself',
      'first_N - jnp.where(columns_J == chosen_N1, 0.0, info.probability_NJ).max(axis=-1)',
      'first_N - info.probability_NJ.max(axis=-1)',
    ),
  ),
  *_in(
    'inspection',
    'trix_jax/inspection/address_map.py',
    'test_tile_cards',
    ('a_map_of_first_tiles_only', '(tile_VK == tile).any(axis=1)', '(tile_VK[:, 0] == tile)'),
  ),
)

CLI = (
  *_in(
    'cli',
    'trix_jax/cli/graft.py',
    'test_grafting',
    ('a_donor_of_any_vocabulary', 'if donor.vocabulary != host.vocabulary:', 'if not donor.vocabulary:'),
    ('recovered_of_what_is_left', '(before - after) / (before - best)', '(after - best) / (before - best)'),
    ('origins_start_with_the_host', 'host.config.model.ffn.tiles\n  for donor', '0\n  for donor'),
  ),
  *_in(
    'cli',
    'trix_jax/cli/launcher.py',
    'test_command_lines test_processes',
    (
      'a_stopped_training_exits_as_a_mistake',
      '    _fail(str(error), error.exit_code)\n  except MemoryError',
      '    _fail(str(error), 2)\n  except MemoryError',
    ),
    ('an_unknown_program_trains', 'elif name not in PROGRAMS:', 'elif not name:'),
  ),
  *_in(
    'cli',
    'trix_jax/cli/arguments.py',
    'test_command_lines',
    ('names_of_configs_are_paths', 'shipped_configs().get(path, path)', 'path'),
  ),
)

KERNELS = (
  *_in(
    'kernels',
    'xla_kernels/native.py',
    'kernels/test_registration',
    (
      'handlers_of_newer_headers_accepted',
      'built[0] == installed[0] and built[1] <= installed[1]',
      'built[0] == installed[0]',
    ),
    (
      'handlers_of_another_abi_accepted',
      'built[0] == installed[0] and built[1] <= installed[1]',
      'built[1] <= installed[1]',
    ),
    (
      'a_refusal_ends_the_operation',
      'except (RuntimeError, ValueError, TypeError) as error:',
      'except ImportError as error:',
    ),
    ('refused_kernels_stay_listed', '    _native = None\n', ''),
  ),
  *_in(
    'kernels',
    'xla_kernels/packing.py',
    'kernels/test_packing kernels/test_products',
    ('two_planes_swapped', 'np.array([1, 4, 16, 64])', 'np.array([4, 1, 16, 64])'),
    ('codes_that_are_not_ternary_packed', 'if low < -1 or high > 1:', 'if low < -2 or high > 2:'),
    (
      'narrow_tiles_padded_to_16_rows',
      'WIDE_ROWS, NARROW_ROWS, THIN_ROWS = 64, 16, 4',
      'WIDE_ROWS, NARROW_ROWS, THIN_ROWS = 64, 16, 16',
    ),
    ('first_layout_read_as_the_present_one', 'rows, columns), FIRST_MULTIPLE))', 'rows, columns), MULTIPLE))'),
  ),
  *_in(
    'kernels',
    'xla_kernels/reference.py',
    'kernels/test_products kernels/test_route kernels/test_index kernels/test_attention',
    (
      'reference_rounds_half_up',
      'jnp.round(jnp.where(usable, x, 0.0) * factor)',
      'jnp.floor(jnp.where(usable, x, 0.0) * factor + 0.5)',
    ),
    (
      'reference_probes_in_order_of_score',
      'cluster_NP = jnp.sort(_best(cluster_dot_NC, cluster_scale, cluster_offset, step, probes)[0], axis=-1)',
      'cluster_NP = _best(cluster_dot_NC, cluster_scale, cluster_offset, step, probes)[0]',
    ),
    (
      'reference_attention_does_not_see_itself',
      'visible_BLS = jnp.arange(S) <= last_BL[..., None]',
      'visible_BLS = jnp.arange(S) < jnp.maximum(last_BL, 1)[..., None]',
    ),
    (
      'reference_writes_a_full_cache',
      'jnp.where(room_B[:, None, None, None], out_BLHW, jnp.nan)',
      'out_BLHW',
    ),
  ),
  *_in(
    'kernels',
    'xla_kernels/operations.py',
    'kernels/test_tiles kernels/test_index kernels/test_route test_packed_layer test_inference',
    (
      'bias_of_a_kernel_not_divided_by_the_scale',
      'jnp.where(scale_T > 0, bias_T / jnp.where(scale_T > 0, scale_T, 1.0), 0.0)',
      'jnp.where(scale_T > 0, bias_T, 0.0)',
    ),
    (
      'kernel_probability_of_another_width',
      'np.float32(x_ND.shape[1] ** -0.5)',
      'np.float32(x_ND.shape[0] ** -0.5)',
    ),
  ),
  *_in(
    'kernels',
    'xla_kernels/native.py',
    'kernels/test_transformations',
    (
      'kernels_of_other_sources_are_called',
      "if getattr(module, 'interface', 1) != INTERFACE:",
      "if getattr(module, 'interface', 1) is None:",
    ),
  ),
)

CSRC = (
  *_in(
    'csrc',
    'xla_kernels/csrc/isa/portable.cc',
    'kernels/test_products',
    ('zero_point_left_out_portable', 'out[r] = -sums[t];', 'out[r] = 0 * sums[t];'),
    path='portable',
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/isa/avx2.cc',
    'kernels/test_products',
    ('zero_point_left_out_avx2', 'store(p + 1, _mm256_sub_epi32(upper, zero_point));', 'store(p + 1, upper);'),
    (
      'planes_of_thin_blocks_not_separated_avx2',
      '_mm_srav_epi32(_mm_sub_epi32(prefix, below), _mm_set_epi32(2, 0, 2, 0))',
      '_mm_srav_epi32(prefix, _mm_set_epi32(2, 0, 2, 0))',
    ),
    (
      'a_narrow_block_reads_columns_that_it_does_not_have_avx2',
      'k + 4 < columns ? _mm_loadu_si128(lanes + 1) : _mm_setzero_si128()',
      'k + 4 < columns ? _mm_loadu_si128(lanes + 1) : _mm_loadu_si128(lanes)',
    ),
    path='avx2',
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/isa/avx512_vnni.cc',
    'kernels/test_products',
    ('zero_point_off_by_one_avx512', '_mm512_set1_epi32(128 * sums[t])', '_mm512_set1_epi32(127 * sums[t])'),
    ('sum_without_the_last_columns_avx512', '    total = _mm512_add_epi32(total, values);\n', ''),
    (
      'last_columns_of_thin_blocks_left_out_avx512',
      'DotPrefixes(prefix, w.w3, w.w15, w.w63, w.all, LoadSome(x + whole, columns - whole));',
      'DotPrefixes(prefix, w.w3, w.w15, w.w63, w.all, LoadSome(x + whole, 0));',
    ),
    ('last_columns_of_narrow_blocks_left_out_avx512', '  if (whole == columns) return;\n', '  return;\n'),
    path='avx512_vnni',
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/isa/avx512_vnni.cc',
    'kernels/test_tiles',
    ('zero_point_of_a_plane_too_small_avx512', '_mm512_slli_epi32(start, 4)', '_mm512_slli_epi32(start, 3)'),
    path='avx512_vnni',
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/isa/elementwise.h',
    'kernels/test_products kernels/test_tiles',
    (
      'step_by_division_in_a_kernel',
      'return {true, 127.0f / a, a * kInverseInt8Max};',
      'return {true, 127.0f / a, a / 127.0f};',
    ),
    (
      'accumulators_rescaled_in_another_order_in_a_kernel',
      'return (static_cast<float>(acc) * step) * scale;',
      'return static_cast<float>(acc) * (step * scale);',
    ),
    ('not_a_number_becomes_zero', 'return value < 0.0f ? 0.0f : value;', 'return value > 0.0f ? value : 0.0f;'),
    (
      'all_narrow_tiles_have_the_scale_of_the_first',
      'const float* own_scale = scale + parts[i].tile * h;',
      'const float* own_scale = scale;',
    ),
    (
      'not_a_number_becomes_zero_in_narrow_tiles',
      'usable ? step : finite ? 0.0f : __builtin_nanf("")',
      'usable ? step : 0.0f',
    ),
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/isa/selection.h',
    'kernels/test_route',
    ('ties_of_many_go_to_the_last_tile', '((value[j] == own) & (j < i))', '((value[j] == own) & (j > i))'),
    ('zeros_of_many_tiles_have_signs', '  value += 0.0f;\n', ''),
    (
      'equals_of_many_tiles_before_greater_ones',
      'equal = top_k - CountFrom(value, count, bound + 1);',
      'equal = top_k;',
    ),
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/ops/panels.h',
    'kernels/test_products',
    (
      'tail_rows_not_multiplied',
      '  const int64_t padded = PaddedRows(rows);\n',
      '  const int64_t padded = rows / kThinRows * kThinRows;\n',
    ),
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/ops/matmul.cc',
    'kernels/test_products',
    (
      'threads_leave_blocks_out',
      'blocks * task / tasks, blocks * (task + 1) / tasks, rows',
      'blocks / tasks * task, blocks / tasks * (task + 1), rows',
    ),
    (
      'a_task_quantises_a_token_too_few',
      't < tokens * (task + 1) / quantise_tasks; ++t)',
      't < tokens * (task + 1) / quantise_tasks - (task > 0); ++t)',
    ),
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/ops/routing.cc',
    'kernels/test_route kernels/test_index kernels/test_tiles',
    (
      'ties_go_to_the_last_tile_in_a_kernel',
      'for (; at > 0 && values[c] > best[at - 1]; --at)',
      'for (; at > 0 && values[c] >= best[at - 1]; --at)',
    ),
    (
      'no_number_is_chosen_in_a_kernel',
      'std::isnan(value) ? -std::numeric_limits<float>::infinity()',
      'std::isnan(value) ? std::numeric_limits<float>::infinity()',
    ),
    (
      'bias_of_a_kernel_scores',
      'score[i] = static_cast<float>(dot[place[i]]) * candidates.scale[place[i]];',
      'score[i] = selection[place[i]];',
    ),
    ('probes_in_order_of_score_in_a_kernel', '    std::sort(w.cluster, w.cluster + index.probes);\n', ''),
    ('kernel_probability_without_the_root_of_the_width', '* step) * temperature;', '* step);'),
    (
      'kernel_computes_what_a_sure_token_does_without',
      '> gating.margin) gate[i] = 0.0f;',
      '> gating.margin) gate[i] *= 1.0f;',
    ),
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/ops/tile_ffn.cc',
    'kernels/test_tiles',
    ('all_tiles_have_the_scale_of_the_first', 'tiles.down_scale + tile * d;', 'tiles.down_scale;'),
    (
      'all_tiles_have_the_gate_of_the_first',
      'w.gate[i] = gate[tokens[i] * top_k + k];',
      'w.gate[i] = gate[tokens[i] * top_k];',
    ),
    ('long_groups_lose_their_rest', 'first, std::min(kGroup, end - first)}', 'begin, std::min(kGroup, end - first)}'),
    (
      'narrow_tiles_have_the_gate_of_the_first',
      '{tile[k], gate[k], nullptr, 0.0f, 0}',
      '{tile[k], gate[0], nullptr, 0.0f, 0}',
    ),
    (
      'tasks_leave_tokens_out',
      'n * task / tasks, last = n * (task + 1) / tasks;',
      'n / tasks * task, last = n / tasks * (task + 1);',
    ),
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/ops/attention.cc',
    'kernels/test_attention',
    ('new_keys_overwrite_the_oldest', 'const int64_t slot = first + l, block', 'const int64_t slot = l, block'),
    ('queries_are_not_scaled', 'q[at(l + i) + w] * shape.scale;', 'q[at(l + i) + w];'),
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/isa/attention_loops.h',
    'kernels/test_attention',
    (
      'later_queries_see_what_the_first_does',
      'Softmax(weights + i * slots, length + i);',
      'Softmax(weights + i * slots, length);',
    ),
  ),
  *_in(
    'csrc',
    'xla_kernels/csrc/ffi/ffi_buffers.h',
    'kernels/test_transformations kernels/test_index',
    ('every_batch_entry_is_the_first', 'offset += entry % lengths_[i] * stride;', 'offset += 0 * entry;'),
  ),
)

EXPERIMENTS = (
  *_in(
    'experiments',
    'experiments/runner/planning.py',
    'test_experiments',
    (
      'digest_depends_on_the_folder',
      'recipe.digest_of(config_of(portable))',
      'recipe.digest_of(config_of(settings))',
    ),
  ),
  *_in(
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
  *_in(
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
  *_in(
    'experiments',
    'experiments/findings/verdicts.py',
    'test_report',
    ('undecided_intervals_decide', 'if estimate.low <= limit <= estimate.high:', 'if estimate.high < estimate.low:'),
    ('one_seed_decides', 'if seeds > 1 and true is not None:', 'if seeds > 0 and true is not None:'),
  ),
  *_in(
    'experiments',
    'experiments/suites/four_routings.py',
    'test_report',
    (
      'five_percent_are_fifty',
      "0.05,\n      'the original ignored its gate in training'",
      "0.5,\n      'the original ignored its gate in training'",
    ),
  ),
  *_in(
    'experiments',
    'experiments/suites/graft.py',
    'test_report',
    ('a_reading_is_the_best_by_one_text', "(row['donor'] + row['host']) / 2", "row['donor']"),
    ('half_of_the_gain_is_enough', 'LEAST_R, MOST_F = 0.7, 0.01', 'LEAST_R, MOST_F = 0.5, 0.01'),
    ('grafts_may_cost_the_host_more', 'LEAST_R, MOST_F = 0.7, 0.01', 'LEAST_R, MOST_F = 0.7, 0.1'),
  ),
  *_in(
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
    ('scores_see_the_text_to_come', 'jnp.cumsum(score_BLT, axis=1)', 'jnp.sum(score_BLT, axis=1, keepdims=True)'),
    ('ties_leave_the_host', 'keepdims=True) > own_NT.max', 'keepdims=True) >= own_NT.max'),
    ('a_key_moves_tokens_inside_the_host', 'routing.select(vote_NT[:, :host_tiles], 1)', 'routing.select(own_NT, 1)'),
    ('tiles_of_the_host_get_other_keys', 'key_TD.at[first:].set(', 'key_TD.at[:].set('),
    (
      'ridge_takes_the_other_text',
      'np.concatenate([-np.ones(len(x_host)), np.ones(len(x_donor))])',
      'np.concatenate([np.ones(len(x_host)), -np.ones(len(x_donor))])',
    ),
  ),
  *_in(
    'experiments',
    'experiments/runner/results_file.py',
    'test_experiments test_report',
    ('results_doubled', 'if seen.count(of) > 1', 'if seen.count(of) > 2'),
    ('results_of_another_budget_lost', "if results['budget'] != budget:", "if not results['budget']:"),
  ),
  *_in(
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
  *_in(
    'experiments',
    'experiments/report/page.py',
    'test_report',
    ('differences_are_not_drawn', 'if gaps := judgement.gaps(name, rows):', 'if gaps := judgement.gaps(name, []):'),
    ('failures_are_not_told', "failed else ''", "not failed else ''"),
  ),
  *_in(
    'experiments',
    'experiments/suites/suite.py',
    'test_experiments',
    (
      'a_run_that_goes_on_sees_the_same_text',
      "'training.start_from' in own else 0)",
      "'training.start_from' in () else 0)",
    ),
  ),
  *_in(
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
  *_in(
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
  *_in(
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
  *_in(
    'experiments',
    'experiments/findings/readings.py',
    'test_forced_tiles',
    (
      'tokens_of_a_removed_tile_keep_its_gate',
      'left_N1 = 1 - info.probability_NJ[:, tile, None]',
      'left_N1 = jnp.ones((len(choice_N1), 1))',
    ),
  ),
  *_in(
    'experiments',
    'experiments/texts/king_james.py',
    'test_texts',
    ('any_bible_is_the_king_james', 'if hashlib.sha256(found.encode()).hexdigest() != SHA256:', 'if not found:'),
  ),
  *_in(
    'experiments',
    'experiments/findings/measure.py',
    'test_experiments',
    ('chance_is_the_least_of_the_tables', "'most': float(np.max(values))", "'most': float(np.min(values))"),
  ),
  *_in(
    'experiments',
    'experiments/findings/edited.py',
    'test_edits_suite',
    (
      'stale_keys_are_not_carried_to_the_tiles_that_came',
      'key_TD = edits.carry(changes[layer], key_TD)',
      'key_TD = key_TD[: len(changes[layer].carry_XT)]',
    ),
  ),
  *_in(
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
  *_in(
    'experiments',
    'experiments/runner/jobs.py',
    'test_jobs test_experiments',
    ('jobs_share_one_core', 'set(cores[job::count])', 'set(cores[::count])'),
    ('a_stop_leaves_programs_running', '        program.terminate()\n', '        program.poll()\n'),
  ),
)

MUTATIONS = (
  CORE
  + NN
  + EDITING
  + DATA
  + CONFIGURATION
  + RUNS
  + SYSTEM
  + TRAINING
  + EVALUATION
  + INFERENCE
  + INSPECTION
  + CLI
  + KERNELS
  + CSRC
  + EXPERIMENTS
)
