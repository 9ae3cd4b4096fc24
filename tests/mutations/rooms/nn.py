"""Mutations of `trix_jax/nn`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'nn',
    'trix_jax/nn/ffn.py',
    'test_ffn test_packed_layer test_inference test_indexed_ffn',
    (
      'accumulators_rescaled_in_another_order',
      'return (accumulator * step) * scale',
      'return accumulator * (step * scale)',
    ),
    (
      'narrow_tiles_are_moved_to',
      'config.d_ff < chosen * (config.hidden + UNITS_OF_A_MOVE)',
      'config.d_ff < chosen * config.hidden',
    ),
    ('wide_tiles_are_all_computed', "jax.default_backend() == 'cpu' and ", "jax.default_backend() == 'cpu' or "),
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
  *break_file(
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
  *break_file(
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
  *break_file(
    'nn',
    'trix_jax/nn/transformer.py',
    'test_transformer test_controls test_inference test_golden_model',
    (
      'block_without_its_residual',
      'AfterBlock(x_BLD, y_BLD, info, after) if parts.has_residual else AfterBlock(y_BLD, None, info, after)',
      'AfterBlock(y_BLD, None, info, after)',
    ),
    (
      'attention_without_its_residual',
      "parts.prepare('ffn', x_BLD, y_BLD, ",
      "parts.prepare('ffn', y_BLD, None, ",
    ),
  ),
  *break_file(
    'nn',
    'trix_jax/nn/controls.py',
    'test_controls',
    ('tile_dropout_loses_the_mean', 'gate_NK=2.0 * info.gate_NK * kept_NT', 'gate_NK=info.gate_NK * kept_NT'),
    ('gradual_sparsity_goes_backwards', "'tiles'), 1 - progress, ", "'tiles'), progress, "),
  ),
  *break_file(
    'nn',
    'trix_jax/nn/unit_routings.py',
    'test_unit_routings',
    ('an_oracle_chooses_a_tile_again', 'jnp.where(chosen_NT, -jnp.inf, gain_NT)', 'gain_NT'),
    ('an_oracle_ignores_what_it_chose', 'gain_NT -= 2 * jnp', 'gain_NT -= 0 * jnp'),
    ('a_squared_gate_reads_sizes', 'jnp.square(x_ND)], axis=-1)', 'jnp.abs(x_ND)], axis=-1)'),
    ('groups_vote_together', 'return math.gcd(max(1, GROUPS // config.tiles), config.hidden)', 'return 1'),
    (
      'a_witness_is_the_first_of_its_group',
      'jnp.argmax(like_TGU, axis=-1, keepdims=True)',
      'jnp.argmax(0 * like_TGU, axis=-1, keepdims=True)',
    ),
    (
      'energy_along_the_smallest_directions',
      'vector_THH[..., left_out:]',
      'vector_THH[..., : config.hidden - left_out]',
    ),
    ('a_share_leaves_out_its_last_tile', 'jnp.cumsum(part_NT, axis=-1) - part_NT', 'jnp.cumsum(part_NT, axis=-1)'),
  ),
  *break_file(
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
  *break_file(
    'nn',
    'trix_jax/nn/transformer.py',
    'test_addresses',
    (
      'embeddings_teach_no_address',
      '= layers.normalise_rms(x_BLD) if',
      '= layers.normalise_rms(jax.lax.stop_gradient(x_BLD)) if',
    ),
  ),
  *break_file(
    'nn',
    'trix_jax/nn/controls.py',
    'test_controls',
    (
      'a_drawn_hash_is_the_same_for_all',
      'tile_VK[tokens.number.reshape(-1)])',
      'tile_VK[0 * tokens.number.reshape(-1)])',
    ),
    ('an_address_is_read_for_ever', 'jnp.where(step == KEPT_AFTER - 1, dealt_V,', 'jnp.where(step < 0, dealt_V,'),
    ('tiles_have_room_for_all', 'jnp.where(load_T < room, ', 'jnp.where(load_T < 9, '),
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
