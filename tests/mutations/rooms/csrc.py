"""Mutations of the C++ of the kernels."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'csrc',
    'xla_kernels/csrc/isa/portable.cc',
    'kernels/test_products',
    ('zero_point_left_out_portable', 'out[r] = -sums[t];', 'out[r] = 0 * sums[t];'),
    path='portable',
  ),
  *break_file(
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
  *break_file(
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
  *break_file(
    'csrc',
    'xla_kernels/csrc/isa/avx512_vnni.cc',
    'kernels/test_tiles',
    ('zero_point_of_a_plane_too_small_avx512', '_mm512_slli_epi32(start, 4)', '_mm512_slli_epi32(start, 3)'),
    path='avx512_vnni',
  ),
  *break_file(
    'csrc',
    'xla_kernels/csrc/isa/elementwise.h',
    'kernels/test_products kernels/test_tiles',
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
  *break_file(
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
  *break_file(
    'csrc',
    'xla_kernels/csrc/ops/panels.h',
    'kernels/test_products',
    (
      'tail_rows_not_multiplied',
      '  const int64_t padded = PaddedRows(rows);\n',
      '  const int64_t padded = rows / kThinRows * kThinRows;\n',
    ),
  ),
  *break_file(
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
  *break_file(
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
  *break_file(
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
  *break_file(
    'csrc',
    'xla_kernels/csrc/ops/attention.cc',
    'kernels/test_attention',
    (
      'new_keys_overwrite_the_oldest',
      'tokens.Value(l, kv_head), first + l);',
      'tokens.Value(l, kv_head), l);',
    ),
    ('queries_are_not_scaled', 'queries_[i] *= turning_.scale;', 'queries_[i] *= 1.0f;'),
    ('int8_scores_are_not_scaled', 'key_scale_ + s, turning_.scale, slots', 'key_scale_ + s, 1.0f, slots'),
    ('neighbouring_heads_share_nothing', 'head = kv_head * group; head <', 'head = kv_head; head <'),
    ('all_rows_turn_by_the_first_tables', 'table = row / turning.rows * turning.angles;', 'table = 0 * row;'),
  ),
  *break_file(
    'csrc',
    'xla_kernels/csrc/isa/attention_loops.h',
    'kernels/test_attention',
    (
      'later_queries_see_what_the_first_does',
      'Softmax(weights + i * slots, length + i);',
      'Softmax(weights + i * slots, length);',
    ),
  ),
  *break_file(
    'csrc',
    'xla_kernels/csrc/isa/int8_attention_loops.h',
    'kernels/test_attention',
    (
      'low_digits_are_lost',
      'static_cast<float>(high[i]) * kDigit + static_cast<float>(low[i])',
      'static_cast<float>(high[i]) * kDigit',
    ),
    ('weights_ignore_the_scale_of_values', 'scores[s] *= scale[s];', 'scores[s] *= scale[0];'),
  ),
  *break_file(
    'csrc',
    'xla_kernels/csrc/isa/quantisation.h',
    'kernels/test_products kernels/test_tiles',
    ('step_by_division_in_a_kernel', 'return {true, kMost / a, a * kInverse};', 'return {true, kMost / a, a / kMost};'),
  ),
  *break_file(
    'csrc',
    'xla_kernels/csrc/isa/normalisation.h',
    'kernels/test_normalisation test_golden_model',
    ('norms_without_epsilon', 'square / count + kEpsilon', 'square / count'),
    ('norms_lose_the_rest_of_a_row', '  return SumOf(sums) + total;', '  return SumOf(sums);'),
  ),
  *break_file(
    'csrc',
    'xla_kernels/csrc/ops/normalisation.cc',
    'kernels/test_normalisation',
    ('padding_enters_the_convolution', 'h + valid[b] * d, static', 'h + length * d, static'),
    ('taps_in_reverse', 'taps[lag * d + i] * own[i - lag * d]', 'taps[(kTaps - lag) * d + i] * own[i - lag * d]'),
  ),
  *break_file(
    'csrc',
    'xla_kernels/csrc/ffi/ffi_buffers.h',
    'kernels/test_transformations kernels/test_index',
    ('every_batch_entry_is_the_first', 'offset += entry % lengths_[i] * stride;', 'offset += 0 * entry;'),
  ),
)
