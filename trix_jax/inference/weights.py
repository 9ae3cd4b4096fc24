"""A trained language model for inference: a flat dictionary of arrays, with tiles at two bits a weight.

`layout` lists the arrays for writing, reading and checking alike. `pack` fills them from trained parameters.
`as_trained` returns a dictionary for XLA with only the quantisation of training.

The weights outside the tiles can be float32, int8 with a scale for each output, or ternary codes. With int8 or ternary
weights the activations are quantised too, so that sums are exact. Embedding and positions are tables. They are float32
with a float32 head, else int8 with a scale for each row. A model of ternary projections keeps its codes: at two bits,
or in float32 with their scales.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import xla_kernels
from trix_jax.core import layers, ternary
from trix_jax.errors import InputError
from trix_jax.nn import ffn, indexed_ffn, router
from trix_jax.nn.model_config import NO_CONTROL, FFNConfig, ModelConfig
from xla_kernels import packing

PRECISIONS = ('float32', 'int8', 'ternary')
MOST_ADDRESSED = 1 << 16  # Tiles of a layer whose numbers fit into uint16.
INT8_MAX = 127


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
  """The form of a model at inference.

  Attributes:
    model: sizes and form of the language model.
    vocabulary_size: V.
    attention, head: precision of the projections around attention and of the output head, one of `PRECISIONS`. An
      empty one becomes `ternary` for a model of ternary projections, else `int8`. Keys and values of earlier tokens are
      float32 with float32 attention, else int8.
  """

  model: ModelConfig
  vocabulary_size: int
  attention: str = ''
  head: str = ''

  @property
  def has_ternary_projections(self) -> bool:
    """Return whether the model was trained with ternary projections."""
    return self.model.projections == 'ternary'

  @property
  def tables(self) -> str:
    """Return the precision of embedding and positions."""
    return 'float32' if self.head == 'float32' else 'int8'

  @property
  def key_values(self) -> Any:
    """Return the dtype of the cache of keys and values."""
    return jnp.float32 if self.attention == 'float32' else jnp.int8

  def __post_init__(self):
    for name in ('attention', 'head'):
      precision = getattr(self, name) or ('ternary' if self.has_ternary_projections else 'int8')
      object.__setattr__(self, name, precision)
      if precision not in PRECISIONS:
        raise InputError(f'{name} precision is {precision!r}; choose one of {", ".join(PRECISIONS)}')
      if self.has_ternary_projections and precision == 'int8':
        raise InputError(f'{name} precision is int8, but the projections of this model are ternary; leave it out')
    if self.model.control != NO_CONTROL:
      raise InputError(
        f'a model with model.control = {self.model.control} is for experiments, and has no packed form; `trix eval` '
        'reads it'
      )
    if self.model.ffn.has_fixed_addresses and self.model.ffn.tiles > MOST_ADDRESSED:
      raise InputError(
        f'a packed model holds addresses of at most {MOST_ADDRESSED} tiles, not of model.tiles = {self.model.ffn.tiles}'
      )
    if self.vocabulary_size < 1:
      raise InputError(f'vocabulary_size = {self.vocabulary_size}; it must be at least 1')


@dataclasses.dataclass(frozen=True)
class Entry:
  """The dtype and shape of one array. The dtype tells which values it may hold.

  float32 arrays are finite. uint8 arrays hold packed ternary codes. int8 arrays hold integers from -127 to 127, packed
  except for the rows of tables. int32 arrays hold each number from 0 on once. uint16 arrays hold numbers below `below`,
  different ones in every row.
  """

  dtype: str
  shape: tuple[int, ...]
  below: int = 0
  matrix: tuple[int, int] | None = None  # Rows and columns of each matrix of packed codes.


def layout(config: InferenceConfig) -> dict[str, Entry]:
  """List every array of a packed model by name."""
  model = config.model
  D, V = model.d_model, config.vocabulary_size
  reference = model.form == 'reference'
  entries = _table('embedding', V, D, config.tables)
  if reference:
    entries |= _table('positions', model.context, D, config.tables)
  for layer in range(model.layers):
    name = f'layer_{layer}'
    for part in ('attention', 'ffn'):
      entries |= _norm(f'{name}.{part}_norm', D, reference)
      if not reference:
        entries[f'{name}.{part}_convolution'] = Entry('float32', (layers.CONVOLUTION_WIDTH, D))
    entries |= _projection(f'{name}.attention.qkv', 3 * D, D, config, config.attention)
    entries |= _projection(f'{name}.attention.out', D, D, config, config.attention)
    entries |= {f'{name}.ffn.{key}': entry for key, entry in _tiles(model.ffn, V).items()}
  return entries | _norm('final_norm', D, reference) | _projection('head', V, D, config, config.head)


def _table(name, rows, columns, precision):
  if precision == 'float32':
    return {f'{name}.rows': Entry('float32', (rows, columns))}
  return {f'{name}.rows': Entry('int8', (rows, columns)), f'{name}.scale': Entry('float32', (rows,))}


def _norm(name, width, with_bias):
  names = ('scale', 'bias') if with_bias else ('scale',)
  return {f'{name}.{key}': Entry('float32', (width,)) for key in names}


def _projection(name, rows, columns, config, precision):
  if precision == 'float32':
    weights = Entry('float32', (columns, rows))  # XLA on CPU multiplies x w faster than x w^T.
  else:
    weights = (_int8 if precision == 'int8' else _codes)((), rows, columns)
  entries = {f'{name}.weights': weights}
  if precision != 'float32' or config.has_ternary_projections:
    entries[f'{name}.scale'] = Entry('float32', (rows,))
  if config.model.form == 'reference':
    entries[f'{name}.bias'] = Entry('float32', (rows,))
  return entries


def _tiles(config: FFNConfig, V: int) -> dict[str, Entry]:
  D, T, H, C, K = config.d_model, config.tiles, config.hidden, config.clusters, config.top_k
  keys = _codes if config.signature == 'sign' else _int8
  of_tiles = (C, T // C) if C else (T,)  # The shape of the numbers that routing keeps for every tile.
  entries = {
    'up': _codes((T,), H, D),
    'up_scale': Entry('float32', (T, H)),
    'down': _codes((T,), D, H),
    'down_scale': Entry('float32', (T, D)),
    'signatures': keys(of_tiles[:-1], of_tiles[-1], D),
    'signature_scale': Entry('float32', of_tiles),
  }
  if C:
    entries |= {
      'members': Entry('int32', of_tiles),
      'clusters': keys((), C, D),
      'cluster_scale': Entry('float32', (C,)),
      **_norm('norm', D, False),
    }
  if config.way.has_gate:
    entries |= {'gate.weights': Entry('float32', (D, T)), 'gate.bias': Entry('float32', (T,))}
  if config.balance_bias:
    entries['balance_bias'] = Entry('float32', of_tiles)
    if C:
      entries['cluster_bias'] = Entry('float32', (C,))
  if config.has_fixed_addresses:
    entries['address.tiles'] = Entry('uint16', (V, K), below=T)
    if _addresses_have_gates(config):
      entries['address.gates'] = Entry('float32', (V, K))
  return entries


def _addresses_have_gates(config):
  return config.gate != 'one_hot' or config.keep_ratio > 0


def _codes(lead, rows, columns):
  return Entry('uint8', (*lead, packing.packed_bytes(rows, columns)), matrix=(rows, columns))


def _int8(lead, rows, columns):
  return Entry('int8', (*lead, packing.packed_int8_bytes(rows, columns)))


def pack(params: Any, routing_state: Any, config: InferenceConfig) -> dict[str, jax.Array]:
  """Make the arrays of `layout` from the parameters and the `routing` collection of a `transformer.TransformerLM`."""
  arrays = _around_tiles(params, config)
  for layer in range(config.model.layers):
    name = f'layer_{layer}'
    of_layer, state = params[name]['ffn'], _state_of(routing_state, name)
    tiles = _pack_tiles(of_layer, state, config.model.ffn)
    if config.model.ffn.has_fixed_addresses:
      tiles |= _pack_addresses(of_layer, state, params['embedding']['embedding'], config.model.ffn)
    arrays |= {f'{name}.ffn.{key}': value for key, value in tiles.items()}
  return {name: jnp.asarray(arrays[name], entry.dtype) for name, entry in layout(config).items()}


def as_trained(params: Any, routing_state: Any, model: ModelConfig) -> dict[str, Any]:
  """Make the arrays for XLA: float32, with each layer's tiles, router and norm as one tree, `layer_0.ffn`."""
  V = params['embedding']['embedding'].shape[0]
  arrays: dict[str, Any] = _around_tiles(params, InferenceConfig(model, V, 'float32', 'float32'))
  for layer in range(model.layers):
    name = f'layer_{layer}'
    of_layer = params[name]['ffn']
    tiles = ffn.quantise_tiles(of_layer, model.ffn)
    arrays[f'{name}.ffn'] = {
      'tiles': tiles,
      'router': _trained_router(tiles, of_layer, _state_of(routing_state, name), model.ffn),
      **({'norm': of_layer['norm']} if 'norm' in of_layer else {}),
    }
  return arrays


def _trained_router(tiles, params, state, config):
  bias_T = state.get('balance_bias') if config.balance_bias else None
  if config.clusters:
    index, cluster_bias_C = indexed_ffn.read_index(state, config), indexed_ffn.read_cluster_bias(state, config)
    return router.Router(index.key_TD, index.scale_T, index, bias_T, cluster_bias_C)
  gate = (params['gate']['kernel'], params['gate']['bias']) if 'gate' in params else None
  return router.Router(tiles.signatures_TD, tiles.signature_scale_T, None, bias_T, None, gate)


def _state_of(routing_state, name):
  return (routing_state or {}).get(name, {}).get('ffn', {})


def _around_tiles(params, config):
  model, reference = config.model, config.model.form == 'reference'
  arrays = _pack_table('embedding', params['embedding']['embedding'], config.tables)
  if reference:
    arrays |= _pack_table('positions', params['positions'], config.tables)
  for layer in range(model.layers):
    name = f'layer_{layer}'
    block = params[name]
    for part in ('attention', 'ffn'):
      arrays |= {f'{name}.{part}_norm.{key}': value for key, value in block[f'{part}_norm'].items()}
      if not reference:
        arrays[f'{name}.{part}_convolution'] = block[f'{part}_convolution']['taps']
    attention = block['attention']
    qkv = [attention[key] for key in ('query', 'key', 'value')]
    arrays |= _pack_projection(f'{name}.attention.qkv', qkv, config, config.attention)
    arrays |= _pack_projection(f'{name}.attention.out', [attention['out']], config, config.attention)
  arrays |= {f'final_norm.{key}': value for key, value in params['final_norm'].items()}
  return arrays | _pack_projection('head', [params['head']], config, config.head)


def _pack_table(name, rows_RD, precision):
  if precision == 'float32':
    return {f'{name}.rows': rows_RD}
  q_RD, scale_R = quantise_rows(rows_RD)
  return {f'{name}.rows': q_RD, f'{name}.scale': scale_R}


def _pack_projection(name, denses, config, precision):
  """Pack Flax Dense layers on the same input as one projection."""
  bias = {f'{name}.bias': jnp.concatenate([dense['bias'] for dense in denses])} if 'bias' in denses[0] else {}
  if config.has_ternary_projections:
    read = [_read_codes(dense['kernel']) for dense in denses]
    weights_MK, scale_M = (jnp.concatenate(parts) for parts in zip(*read, strict=True))
  else:
    weights_MK = jnp.concatenate([dense['kernel'].T for dense in denses])
    if precision == 'float32':
      return {f'{name}.weights': weights_MK.T, **bias}
    weights_MK, scale_M = (quantise_rows if precision == 'int8' else ternarise_rows)(weights_MK)
  if precision == 'float32':
    weights = weights_MK.T
  else:
    weights = (xla_kernels.pack_int8 if precision == 'int8' else xla_kernels.pack)(weights_MK.astype(jnp.int8)).data
  return {f'{name}.weights': weights, f'{name}.scale': scale_M, **bias}


def _read_codes(latent_KM):
  """Return the codes of `layers.project_ternary`, output by output, and the scale of each output."""
  codes_KM, scale = ternary.ternarise(latent_KM, 'absmean')
  return codes_KM.T, jnp.broadcast_to(scale[0], latent_KM.shape[1:])


def quantise_rows(weights_MK: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Return int8 weights and a scale for each row, so that weights are about q * scale."""
  q_MK, step_M1 = ternary.quantise_int8(weights_MK)
  return q_MK.astype(jnp.int8), step_M1[:, 0]


def ternarise_rows(weights_MK: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Return ternary codes and scales of weights that were trained in float.

  The codes are absmean, row by row. The scales have the least square error.
  """
  codes_MK, _ = ternary.ternarise(weights_MK[:, None], 'absmean')
  codes_MK = codes_MK[:, 0]
  votes_M = jnp.sum(jnp.abs(codes_MK), axis=1)
  scale_M = jnp.sum(codes_MK * weights_MK, axis=1) / jnp.maximum(votes_M, 1)
  return codes_MK.astype(jnp.int8), scale_M


def _pack_tiles(params, state, config: FFNConfig) -> dict[str, jax.Array]:
  tiles = ffn.quantise_tiles(params, config)

  def packed(codes_TXY):
    return xla_kernels.pack(codes_TXY.swapaxes(1, 2).astype(jnp.int8)).data

  def packed_keys(key):
    return (xla_kernels.pack if config.signature == 'sign' else xla_kernels.pack_int8)(key.astype(jnp.int8)).data

  arrays = {
    'up': packed(tiles.up_TDH),
    'up_scale': tiles.up_scale_TH,
    'down': packed(tiles.down_THD),
    'down_scale': jnp.broadcast_to(tiles.down_scale_TD, (config.tiles, config.d_model)),
  }
  index = indexed_ffn.read_index(state, config) if config.clusters else None

  def in_order(x_T):
    return x_T if index is None else x_T[index.member_CM]

  key_TD, scale_T = tiles.signatures_TD, tiles.signature_scale_T
  if index is not None:
    key_TD, scale_T = index.key_TD, index.scale_T
    arrays |= {
      'members': index.member_CM,
      'clusters': packed_keys(index.cluster_key_CD),
      'cluster_scale': index.cluster_scale_C,
      'norm.scale': params['norm']['scale'],
    }
  arrays |= {'signatures': packed_keys(in_order(key_TD)), 'signature_scale': in_order(scale_T)}
  if config.way.has_gate:
    arrays |= {'gate.weights': params['gate']['kernel'], 'gate.bias': params['gate']['bias']}
  if config.balance_bias:
    arrays['balance_bias'] = in_order(state['balance_bias'])
    if config.clusters:
      arrays['cluster_bias'] = indexed_ffn.read_cluster_bias(state, config)
  return arrays


def _pack_addresses(params, state, embedding_VD, config: FFNConfig) -> dict[str, jax.Array]:
  """Route every token of the vocabulary as in training: by its float32 embedding, which the packed model may round."""
  by = _trained_router(ffn.quantise_tiles(params, config), params, state, config)
  info = router.route(by, config, ffn.quantise_asked(layers.normalise_rms(embedding_VD), config))
  gates = {'address.gates': info.gate_NK} if _addresses_have_gates(config) else {}
  return {'address.tiles': info.tile_NK, **gates}


def count_bytes(config: InferenceConfig) -> dict[str, int]:
  """Return the bytes of all arrays of `layout`, by purpose."""
  result = dict.fromkeys(
    (
      'tiles',
      'scales of tiles',
      'routing addresses',
      'attention',
      'embedding, positions and head',
      'norms and convolutions',
    ),
    0,
  )
  for name, entry in layout(config).items():
    part = name.split('.')[-1]
    if '.ffn.' in name:
      kind = {'up': 'tiles', 'down': 'tiles', 'up_scale': 'scales of tiles', 'down_scale': 'scales of tiles'}.get(
        part, 'routing addresses'
      )
    elif '.attention.' in name:
      kind = 'attention'
    else:
      kind = 'norms and convolutions' if 'norm' in name or 'convolution' in name else 'embedding, positions and head'
    result[kind] += np.dtype(entry.dtype).itemsize * int(np.prod(entry.shape))
  return result
