"""Mutations of `trix_jax/core`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
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
  *break_file(
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
  *break_file(
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
  *break_file(
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
  *break_file(
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
  *break_file(
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
  *break_file(
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
