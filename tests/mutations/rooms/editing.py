"""Mutations of `trix_jax/editing`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'editing',
    'trix_jax/editing/grafting.py',
    'test_grafting',
    ('a_donor_of_any_host', 'if name := _different_around_tiles(params, donor.params):', "if name := '':"),
    (
      'grafted_tiles_are_those_of_the_host',
      "edits.own_scales(of_model[name]['ffn'])",
      "edits.own_scales(params[name]['ffn'])",
    ),
    ('any_gate_is_grafted', "or ffn.gate != 'one_hot' or ffn.balance_bias", 'or ffn.balance_bias'),
    ('donors_of_any_width', "'d_ff / tiles': model.ffn.hidden", "'d_ff / tiles': 0"),
    ('donors_of_any_number_of_tiles', 'or computed != config.ffn.top_k', ''),
  ),
  *break_file(
    'editing',
    'trix_jax/editing/latent_weights.py',
    'test_carving',
    ('carving_changes_codes', 'jnp.where(kept_T11, latent_TXY, codes_TXY)', 'latent_TXY'),
  ),
  *break_file(
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
  *break_file(
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
  *break_file(
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
  *break_file(
    'editing',
    'trix_jax/editing/pruning.py',
    'test_editing',
    ('units_weigh_without_their_output', 'active_TH * size_TH ** (1 / carving.activation_power(config))', 'active_TH'),
  ),
  *break_file(
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
  *break_file(
    'editing',
    'trix_jax/nn/cost.py',
    'test_carving',
    ('routing_costs_nothing', 'routing = scored * D if', 'routing = 0 * D if'),
    ('an_index_scores_all_tiles', 'if C and way.uses_index else T', 'if C and not way.uses_index else T'),
  ),
)
