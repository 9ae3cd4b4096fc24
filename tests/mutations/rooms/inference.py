"""Mutations of `trix_jax/inference`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'inference',
    'trix_jax/inference/language_model.py',
    'test_inference',
    (
      'rows_share_one_seed',
      'np.arange(seed, seed + len(rows), dtype=np.uint32)',
      'np.full(len(rows), seed, np.uint32)',
    ),
    (
      'the_same_number_at_every_step',
      'jax.random.uniform(jax.random.fold_in(key, step), (',
      'jax.random.uniform(key, (',
    ),
    (
      'a_full_context_keeps_its_oldest_half',
      'text[-_half(context) :] if len(text) > context else text for text in texts',
      'text[: _half(context)] if len(text) > context else text for text in texts',
    ),
    ('one_character_beyond_the_context', 'step + context - filled + 1)', 'step + context - filled + 2)'),
    ('a_long_prompt_is_cut_at_its_end', 'texts = [row[-context:].tolist()', 'texts = [row[:context].tolist()'),
  ),
  *break_file(
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
      "'positions', cache.position_B[:, None] + jnp",
      "'positions', 0 * cache.position_B[:, None] + jnp",
    ),
    ('packed_heads_are_not_turned', 'rotary=rotary, normalise_heads=True', 'normalise_heads=True'),
    ('the_packed_stream_is_not_summed', '    add=y_BLD,\n', ''),
    (
      'packed_layer_forgets_the_margin',
      '    keep_margin=config.keep_margin,\n',
      '',
    ),
  ),
  *break_file(
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
  *break_file(
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
  *break_file(
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
  *break_file(
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
