"""Mutations of `trix_jax/inspection`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'inspection',
    'trix_jax/evaluation/classes.py',
    'test_evaluation',
    ('mutual_information_is_half', '2 * information / total', 'information / total'),
  ),
  *break_file(
    'inspection',
    'trix_jax/inspection/tile_cards.py',
    'test_tile_cards',
    (
      'margin_to_the_tile_itself',
      'first_N - jnp.where(columns_J == chosen_N1, 0.0, info.probability_NJ).max(axis=-1)',
      'first_N - info.probability_NJ.max(axis=-1)',
    ),
  ),
  *break_file(
    'inspection',
    'trix_jax/inspection/address_map.py',
    'test_tile_cards',
    ('a_map_of_first_tiles_only', '(tile_VK == tile).any(axis=1)', '(tile_VK[:, 0] == tile)'),
  ),
)
