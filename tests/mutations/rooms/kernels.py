"""Mutations of the Python of the kernels."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
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
  *break_file(
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
  *break_file(
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
      'jnp.arange(S) <= (position_B[:, None] + jnp.arange(L))[..., None]',
      'jnp.arange(S) < jnp.maximum(position_B[:, None] + jnp.arange(L), 1)[..., None]',
    ),
    (
      'reference_writes_a_full_cache',
      'jnp.where(room_B[:, None, None, None], out_BLHW, jnp.nan)',
      'out_BLHW',
    ),
  ),
  *break_file(
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
  *break_file(
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
