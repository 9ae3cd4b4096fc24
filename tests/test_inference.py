"""The model at inference is the model that was trained, however its tokens come."""

import dataclasses

import inference_soak
import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from tiers import fast_first

import xla_kernels
from trix_jax import inference
from trix_jax.core import ternary
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.inference import forward, weights
from trix_jax.nn import ffn, indexed_ffn, model_config, transformer
from trix_jax.nn.model_config import FFNConfig
from xla_kernels import native

VOCABULARY = 'abcdefghijk'
V, CONTEXT = len(VOCABULARY), 24


def config_of(**settings):
  """A small model; `float_reference` has float activations, so that noise flips no rounding."""
  model = {
    'form': 'modern',
    'layers': 2,
    'd_model': 32,
    'heads': 2,
    'context': CONTEXT,
    'dropout': 0.1,
    'd_ff': 64,
    'tiles': 4,
    **settings,
  }
  return model_config.parse_model(model)


FLOAT_MODERN = {'int8_activations': False}
FLOAT_REFERENCE = {
  'form': 'reference',
  'int8_activations': False,
  'quantiser': 'threshold',
  'signature': 'sign',
  'gate': 'one_hot',
  'activation': 'relu',
  'shared_down_scale': True,
}
KINDS = [
  {},
  {'form': 'reference'},
  FLOAT_REFERENCE,
  {'top_k': 2, 'tiles': 8, 'balance_bias': True},
  {'routing': 'learned', 'balance_bias': True},
  {'routing': 'dense', 'gate': 'one_hot'},
  {'routing': 'first'},
  {'signature': 'sign', 'activation': 'relu'},
  {'tiles': 16, 'clusters': 4, 'probes': 2, 'top_k': 3},
  {'tiles': 16, 'clusters': 4, 'probes': 2, 'top_k': 2, 'balance_bias': True, 'cluster_bias': 'max'},
  {'tiles': 8, 'clusters': 2, 'balance_bias': True, 'keep_ratio': 0.7, 'top_k': 2, 'form': 'reference'},
  {'projections': 'ternary'},
  {'projections': 'ternary', 'form': 'reference'},
]


def trained(config, seed=0):
  """Parameters as training might leave them: everything away from its initial value."""
  model = transformer.TransformerLM(config, V)
  variables = jax.jit(model.init)(
    {'params': jax.random.key(seed), 'routing': jax.random.key(1)}, jnp.zeros((1, 1), jnp.int32)
  )
  leaves, structure = jax.tree.flatten(variables['params'])
  keys = jax.random.split(jax.random.key(2), len(leaves))
  params = jax.tree.unflatten(
    structure, [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
  )
  state = jax.tree_util.tree_map_with_path(
    lambda path, leaf: 20.0 * jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)) if 'bias' in str(path[-1]) else leaf,
    variables.get('routing', {}),
  )
  return model, params, state


def packed(model, params, state, attention='float32', head='float32'):
  config = weights.InferenceConfig(model.config, V, attention, head)
  return inference.LanguageModel(config, VOCABULARY, weights.pack(params, state, config), forward.PACKED, {})


def tokens(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, V, shape).astype(np.int32)


def assert_alike(model, token_BL, want, want_infos, error, most_wrong, same_tiles):
  """Logits within `error` but for a share of `most_wrong`, and as large a share of tiles the same as `same_tiles`."""
  logits, infos = forward.whole_text(model.computation, model.config, model.arrays, token_BL)
  wrong = np.abs(np.asarray(logits) - want) > error
  assert np.mean(wrong) <= most_wrong
  tiles, want_tiles = (np.stack([info.tile_NK for info in layers]) for layers in (infos, want_infos))
  assert np.mean(tiles == want_tiles) >= same_tiles


@pytest.mark.parametrize('settings', fast_first(KINDS))
def test_every_kind_of_model_is_the_one_that_was_trained(settings):
  model, params, state = trained(config_of(**settings))
  token_BL = tokens(5, CONTEXT)
  want, want_infos = jax.jit(transformer.apply, static_argnums=0)(model, params, state, token_BL)
  floats = not model.config.ffn.int8_activations
  as_trained = inference.as_trained(model, VOCABULARY, params, state)
  # Float noise upstream flips an int8 rounding here and there, and that a tile; without roundings nothing flips.
  assert_alike(as_trained, token_BL, want, want_infos, 1e-4, *((0, 1) if floats else (0.2, 0.99)))
  compact = packed(model, params, state)
  assert {name: (array.dtype, array.shape) for name, array in compact.arrays.items()} == {
    name: (np.dtype(entry.dtype), entry.shape) for name, entry in weights.layout(compact.config).items()
  }
  # Packing quantises the activations of a float model, which all its logits feel.
  assert_alike(
    compact, token_BL, want, want_infos, 0.2 * float(np.std(want)) if floats else 1e-4, 0.2, 0.9 if floats else 0.99
  )


@pytest.mark.parametrize('clusters, cluster_bias', [(0, 'own'), (4, 'own'), (4, 'mean'), (4, 'max')])
@pytest.mark.parametrize('routing', ['emergent', 'learned', 'dense', 'first', 'random'])
@pytest.mark.parametrize('signature', fast_first(['votes', 'sign']))
def test_a_packed_layer_is_the_trained_layer_under_every_routing(routing, signature, clusters, cluster_bias):
  if (clusters and routing == 'learned') or (cluster_bias != 'own' and routing != 'emergent'):
    return  # Refused, see test_indexed_ffn.py, or without biases.
  config = FFNConfig(
    48,
    192,
    12,
    top_k=2,
    routing=routing,
    signature=signature,
    balance_bias=routing == 'emergent',
    gate='one_hot' if routing == 'dense' else 'probability',
    keep_ratio=0.6,
    clusters=clusters,
    cluster_bias=cluster_bias,
    probes=2 if clusters else 1,
  )
  x_ND = jax.random.normal(jax.random.key(0), (60, 48))
  key = jax.random.key(3)
  layer = indexed_ffn.HierarchicalTriXFFN if clusters else ffn.SparseTriXFFN
  variables = jax.jit(layer(config).init)({'params': key, 'routing': key}, x_ND)
  model = dataclasses.replace(config_of(d_model=48, layers=1, heads=1), ffn=config)
  _, params, state = trained(model)
  params['layer_0']['ffn'] = variables['params']
  compact = packed(transformer.TransformerLM(model, V), params, state)
  trained_arrays = weights.as_trained(params, state, model)
  want, want_info = jax.jit(forward.apply_trained_tiles, static_argnums=(1, 2))(
    trained_arrays, 'layer_0.ffn', config, x_ND, None, key
  )
  got, info = jax.jit(forward.apply_packed_tiles, static_argnums=(1, 2))(
    compact.arrays, 'layer_0.ffn', config, x_ND, None, key
  )
  np.testing.assert_array_equal(info.tile_NK, want_info.tile_NK)
  np.testing.assert_allclose(info.gate_NK, want_info.gate_NK, rtol=2e-6)
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6 * np.abs(want).max())
  np.testing.assert_array_equal(info.score_NJ, want_info.score_NJ)
  if clusters and routing == 'emergent':
    np.testing.assert_array_equal(info.candidate_NJ, want_info.candidate_NJ)
  if routing == 'emergent':
    assert 0.1 < np.mean(np.asarray(info.gate_NK)[:, 1] == 0) < 0.9  # Some tokens are sure of their first tile.


@pytest.mark.parametrize(
  'attention, head, most',
  [('float32', 'int8', 0.1), ('int8', 'float32', 0.1), ('int8', 'int8', 0.1), ('ternary', 'ternary', 1.5)],
)
@pytest.mark.parametrize('form', fast_first(['modern', 'reference']))
def test_fewer_bits_cost_little(form, attention, head, most):
  model, params, state = trained(config_of(form=form))
  token_BL = tokens(4, CONTEXT)
  want = packed(model, params, state).logits(token_BL)
  compact = packed(model, params, state, attention, head)
  error = np.median(np.abs(compact.logits(token_BL) - want)) / np.std(want)
  assert 0 < error < most
  size, whole = (sum(array.nbytes for array in m.arrays.values()) for m in (compact, packed(model, params, state)))
  assert size == sum(weights.count_bytes(compact.config).values()) < whole


@pytest.mark.parametrize('settings', fast_first([FLOAT_MODERN, FLOAT_REFERENCE, {}]))
@pytest.mark.parametrize('make', ['as_trained', 'packed'])
def test_a_cache_changes_nothing(settings, make):
  """Prompts of different lengths in one batch, then token by token: the logits of whole texts."""
  model, params, state = trained(config_of(**settings))
  language_model = (
    packed(model, params, state) if make == 'packed' else inference.as_trained(model, VOCABULARY, params, state)
  )
  computation, config, arrays = language_model.computation, language_model.config, language_model.arrays
  step = jax.jit(forward.forward, static_argnums=(0, 1))
  token_BL, length_B = tokens(3, CONTEXT), np.array([9, 1, 5], np.int32)
  want = np.asarray(language_model.logits(token_BL))
  empty = forward.empty_cache(computation, config, 3, CONTEXT)
  hidden, _, cache = step(computation, config, arrays, token_BL[:, :9], empty, length_B)
  errors = [forward.logits(arrays, hidden)[row, :length] - want[row, :length] for row, length in enumerate(length_B)]
  for _ in range(CONTEXT - 9):
    here = np.asarray(cache.position_B)
    hidden, _, cache = step(computation, config, arrays, token_BL[np.arange(3), here][:, None], cache)
    errors.append(forward.logits(arrays, hidden)[:, 0] - want[np.arange(3), here])
  error = np.concatenate([np.abs(error).reshape(-1) for error in errors])
  # With int8 activations noise may flip a rounding here and there.
  assert np.median(error) < 1e-4
  if settings and make == 'as_trained':
    assert error.max() < 1e-3


def float_model(settings):
  model, params, state = trained(config_of(**settings))
  return inference.as_trained(model, VOCABULARY, params, state)


def by_hand(model, prompt, length):
  """Greedy text out of whole passes over what is in sight."""
  seen, written = list(prompt[-CONTEXT:]), []
  for _ in range(length):
    # Always the same shape, which is compiled once; what stands behind the last token does not matter.
    padded = np.pad(seen, (0, CONTEXT - len(seen)))[None]
    written.append(int(np.argmax(model.logits(padded)[0, len(seen) - 1])))
    if len(seen) == CONTEXT:
      seen = [*seen[1:], written[-1]][-(CONTEXT // 2) :]
    else:
      seen.append(written[-1])
  return model.decode(written)


@pytest.mark.parametrize('settings', fast_first([FLOAT_MODERN, FLOAT_REFERENCE]))
@pytest.mark.parametrize('prompt_lengths', [(1,), (CONTEXT,), (3, 12, 30, 1)])
def test_greedy_text_is_the_likeliest_of_every_step(settings, prompt_lengths):
  """Well beyond the context, so that rows become full at different times."""
  model = float_model(settings)
  prompts = [tokens(length, seed=length) for length in prompt_lengths]
  got = model.generate(prompts, 40, temperature=0.0)
  assert got == [by_hand(model, prompt, 40) for prompt in prompts]
  assert len(set(''.join(got))) > 2


@pytest.fixture(scope='module')
def model():
  return float_model(FLOAT_MODERN)


def test_a_context_of_one():
  config = dataclasses.replace(config_of(**FLOAT_MODERN), context=1)
  m, p, s = trained(config)
  assert len(inference.as_trained(m, VOCABULARY, p, s).generate(['a'], 5)[0]) == 5


def test_a_seed_is_a_text_alone_and_among_others(model):
  prompts = ['abc', 'k', 'hgfedcba' * 3]
  texts = model.generate(prompts, 50, temperature=1.5, seed=7)
  assert texts == model.generate(prompts, 50, temperature=1.5, seed=7)
  assert texts == [model.generate([prompt], 50, temperature=1.5, seed=7 + i)[0] for i, prompt in enumerate(prompts)]
  assert texts != model.generate(prompts, 50, temperature=1.5, seed=8)
  assert [''.join(row) for row in zip(*model.stream(prompts, 50, temperature=1.5, seed=7), strict=True)] == texts


def test_a_model_of_bytes_streams_whole_characters():
  config = config_of(**FLOAT_MODERN)
  net = transformer.TransformerLM(config, 256)
  params, state = jitted.init(net, jax.random.key(0))
  # The head sees the last token alone, and then says: 'é', two bytes, without end.
  params = jax.tree.map(jnp.zeros_like, params)
  params['final_norm']['scale'] = jnp.ones(config.d_model)
  params['embedding']['embedding'] = params['embedding']['embedding'].at[0xC3, 0].set(1.0).at[0xA9, 1].set(1.0)
  params['head']['kernel'] = params['head']['kernel'].at[0, 0xA9].set(9.0).at[1, 0xC3].set(9.0)
  language_model = inference.as_trained(net, corpora.BYTES, params, state)
  pieces = [row for (row,) in language_model.stream(['é'], 2 * inference.CHUNK + 1, temperature=0.0)]
  assert ''.join(pieces) == 'é' * inference.CHUNK + '\ufffd'  # The length cuts the last character.
  assert pieces[0] == 'é' * (len(pieces[0]))


def test_top_k_and_temperature_bound_the_choice(model):
  greedy = model.generate(['abc'], 40, temperature=0.0)
  for temperature in (50.0, inference.MAX_TEMPERATURE):
    assert model.generate(['abc'], 40, temperature=temperature, top_k=1) == greedy
  assert model.generate(['abc'], 40, temperature=1e-6) == greedy
  text = model.generate(['abc'], 300, temperature=50.0, top_k=2)[0]
  seen = model.encode('abc' + text)[:CONTEXT]
  best_LK = np.argsort(model.logits(seen[None])[0])[2:-1, -2:]
  assert np.all(np.any(best_LK == seen[3:, None], axis=1))
  assert 0 < np.mean(best_LK[:, 1] == seen[3:]) < 1
  assert set(model.generate(['abc'], 300, temperature=50.0)[0]) == set(VOCABULARY)
  assert model.generate(['abc'], 20, top_k=1000, seed=3) == model.generate(['abc'], 20, seed=3)


@pytest.mark.slow
def test_temperature_is_that_of_the_softmax(model):
  """The first characters of many seeds come as often as their probabilities say."""
  count, temperature = 4000, 0.7
  first = np.array([VOCABULARY.index(text) for text in model.generate(['abc'] * count, 1, temperature=temperature)])
  probability = jax.nn.softmax(model.logits(model.encode('abc')[None])[0, -1] / temperature)
  error = np.bincount(first, minlength=V) / count - np.asarray(probability)
  assert np.all(np.abs(error) < 5 * np.sqrt(0.25 / count))


def test_nothing_to_write(model):
  assert model.generate([], 10) == [] and model.generate(['a', 'b'], 0) == ['', '']
  assert list(model.stream([], 10)) == []


@pytest.mark.parametrize(
  'arguments, message',
  [
    ((['ab', ''], 5), 'prompt 1 is empty'),
    ((['ab?'], 5), r"'\?'"),
    ((['a'], -1), 'length = -1'),
    (('ab', 5), 'prompts is one text'),
    ((['a'], 2.0), 'length = 2.0'),
    ((['a'], 2**40), f'length = {2**40}'),
    (([[[1], [1, 2]]], 5), 'tokens are no array'),
    ((['a'], None), 'length = None'),
    (([np.array([0, V])], 5), f'0 to {V}; the vocabulary has 0 to {V - 1}'),
    (([np.array([-1])], 5), 'go from -1'),
    (([np.array([0.5])], 5), 'prompt 0 is'),
  ],
)
def test_impossible_prompts_are_refused(model, arguments, message):
  with pytest.raises(InputError, match=message):
    model.stream(*arguments)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'top_k': -1}, 'top_k = -1'),
    ({'temperature': float('nan')}, 'temperature = nan'),
    ({'temperature': -0.1}, 'temperature = -0.1'),
    ({'temperature': float('inf')}, 'temperature = inf'),
    ({'temperature': 1e38}, 'from 0 to 1e'),
    ({'temperature': '1'}, "temperature = '1'"),
    ({'top_k': 1.5}, 'top_k = 1.5'),
    ({'seed': -1}, 'seed = -1'),
    ({'seed': 2**32}, 'from 0 to'),
    ({'seed': 0.5}, 'seed = 0.5'),
  ],
)
def test_impossible_settings_are_refused(model, settings, message):
  with pytest.raises(InputError, match=message):
    model.generate(['a'], 5, **settings)


@pytest.mark.parametrize(
  'given, message',
  [
    (np.zeros((1, CONTEXT + 1), int), 'context'),
    (np.zeros(3, int), r'\[B, L\]'),
    (np.zeros((1, 0), int), 'at least one'),
    (np.zeros((1, 2)), 'integers'),
    ([[1], [1, 2]], 'no array'),
    (np.full((1, 2), V), 'the vocabulary has'),
    (np.full((1, 2), -1), 'the vocabulary has'),
  ],
)
def test_impossible_tokens_are_refused(model, given, message):
  with pytest.raises(InputError, match=message):
    model.logits(given)


def test_tokens_that_are_none_are_no_text(model):
  for token in (-1, V):
    with pytest.raises(InputError, match='the vocabulary has'):
      model.decode([0, token])


def test_a_model_that_routes_at_random_can_be_used():
  model_, params, state = trained(config_of(routing='random'))
  assert np.isfinite(inference.as_trained(model_, VOCABULARY, params, state).logits(tokens(1, 5))).all()


def test_leaving_in_the_middle_leaves_the_model_as_it_was(model):
  want = model.generate(['abc'], 60, seed=1)
  for pieces in range(3):
    stream = model.stream(['abc'], 60, seed=1)
    for _ in range(pieces):
      next(stream)
    stream.close()
  assert model.generate(['abc'], 60, seed=1) == want


@pytest.mark.slow
def test_threads_may_share_a_model():
  result = inference_soak.soak(3, threads=8, busy_core=True)
  assert result['different'] == 0 and result['least_of_a_thread'] > 0


@pytest.mark.parametrize('form', ['modern', 'reference'])
def test_ternary_projections_keep_the_codes_of_training_at_two_bits(form):
  model, params, state = trained(config_of(projections='ternary', form=form))
  in_floats = packed(model, params, state)
  at_two_bits = packed(model, params, state, '', '')
  assert (at_two_bits.config.attention, at_two_bits.config.head) == ('ternary', 'ternary')
  names = [name for name in at_two_bits.arrays if name.endswith('.scale') and ('attention.' in name or 'head' in name)]
  assert len(names) == 2 * 2 + 1
  for name in names:
    weights_name, scale_M = name.replace('.scale', '.weights'), at_two_bits.arrays[name]
    codes_KM = np.asarray(in_floats.arrays[weights_name])
    assert set(np.unique(codes_KM)) == {-1, 0, 1}
    np.testing.assert_array_equal(in_floats.arrays[name], scale_M)
    packed_codes = xla_kernels.PackedTernary(at_two_bits.arrays[weights_name], codes_KM.shape[1], codes_KM.shape[0])
    np.testing.assert_array_equal(xla_kernels.unpack(packed_codes), codes_KM.T)
  key_scale = at_two_bits.arrays['layer_0.attention.qkv.scale'].reshape(3, -1)
  scales = [
    ternary.ternarise(params['layer_0']['attention'][of]['kernel'], 'absmean')[1][0] for of in ('query', 'key', 'value')
  ]
  np.testing.assert_array_equal(key_scale, np.repeat(np.array(scales), key_scale.shape[1], axis=1))


def test_ternary_projections_have_no_int8_form():
  with pytest.raises(InputError, match='head precision is int8, but the projections of this model are ternary'):
    weights.InferenceConfig(config_of(projections='ternary'), V, head='int8')


def test_unknown_precisions_are_refused():
  with pytest.raises(InputError, match="attention precision is 'int4'"):
    weights.InferenceConfig(config_of(), V, 'int4', 'int8')


@pytest.mark.parametrize('settings', [{'form': 'modern'}, {'form': 'reference'}])
def test_a_row_has_the_same_bits_alone_and_among_others(settings):
  """Of a packed model, in a whole text and token by token, on every path."""
  model, params, state = trained(config_of(**settings))
  language_model = packed(model, params, state, 'int8', 'int8')
  computation, config, arrays = language_model.computation, language_model.config, language_model.arrays
  step = jax.jit(forward.forward, static_argnums=(0, 1))
  token_BL = tokens(5, CONTEXT)
  bits = None
  for path in native.available_paths():
    if path == native.REFERENCE:
      continue
    native.force(path)
    many = np.asarray(language_model.logits(token_BL))
    bits = many if bits is None else bits
    np.testing.assert_array_equal(many, bits)
    for row in (0, 4):
      np.testing.assert_array_equal(language_model.logits(token_BL[row : row + 1])[0], many[row])
    cache, outputs = forward.empty_cache(computation, config, 5, CONTEXT), []
    for t in range(CONTEXT):
      hidden, _, cache = step(computation, config, arrays, token_BL[:, t : t + 1], cache)
      outputs.append(forward.logits(arrays, hidden))
    np.testing.assert_array_equal(np.concatenate(outputs, axis=1), many)
  native.force(native.available_paths()[0])
