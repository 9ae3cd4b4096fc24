"""The operations: each checks its arguments, then calls the kernel on CPU and the reference elsewhere.

All take leading batch axes through `jax.vmap` and work under `jit`, `scan` and `shard_map`. A gradient with respect to
their floats is an error. On sharded arrays XLA replicates the operands and results of a custom call; wrap it in
`shard_map` to keep them sharded. `jax.export` accepts custom calls only with
`jax.export.DisabledSafetyCheck.custom_call('trix_...')`. A process that only runs an exported program must call
`xla_kernels.register` first.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xla_kernels import calls, reference
from xla_kernels.packing import PackedInt8, PackedTernary, check_packed, pack_int8

ACTIVATIONS = ('relu', 'relu_squared')
GATES = ('probability', 'one_hot')


def accumulate(q_NK: jax.Array, packed: PackedTernary) -> jax.Array:
  """Compute exact dot products of int8 activations with packed ternary rows.

  Args:
    q_NK: int8 [N, K].
    packed: one matrix of M rows and K columns.

  Returns:
    int32 [N, M].

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
  """
  calls.check_array('accumulate', 'q', q_NK, 'N K', (jnp.int8,))
  calls.check_matrix('accumulate', packed, q_NK.shape[1])
  return _accumulate(q_NK, packed)


def ternary_matmul(
  x_NK: jax.Array, packed: PackedTernary, scales_M: jax.Array, bias_M: jax.Array | None = None
) -> jax.Array:
  """Quantise activations to int8 row by row and multiply them by packed ternary weights.

  The result is y = (acc * step) * scale + bias in float32. acc is the exact integer product of q = rint(x * (127 / a))
  with the codes, where a = max |x| of the row and step = a * float32(1/127). This is absmax quantisation as in BitNet
  b1.58 (arXiv 2402.17764). A row with a < 2**-100 gives 0. A row that holds a NaN or an infinity gives NaN.

  Args:
    x_NK: float32 or bfloat16 [N, K].
    packed: one matrix of M rows and K columns.
    scales_M: float32 [M], factor of each output.
    bias_M: float32 [M], added to each output.

  Returns:
    [N, M] in the dtype of `x_NK`.

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
  """
  return _ternary_matmul(*_check_matmul('ternary_matmul', x_NK, packed, scales_M, bias_M, PackedTernary))


def int8_matmul(x_NK: jax.Array, packed: PackedInt8, scales_M: jax.Array, bias_M: jax.Array | None = None) -> jax.Array:
  """Compute `ternary_matmul` with int8 weights, for parts that need more than two bits.

  Args:
    x_NK: float32 or bfloat16 [N, K].
    packed: one matrix of M rows and K columns.
    scales_M: float32 [M], factor of each output.
    bias_M: float32 [M], added to each output.

  Returns:
    [N, M] in the dtype of `x_NK`.

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
  """
  return _int8_matmul(*_check_matmul('int8_matmul', x_NK, packed, scales_M, bias_M, PackedInt8))


def _check_matmul(name, x_NK, packed, scales_M, bias_M, kind):
  calls.check_array(name, 'x', x_NK, 'N K', (jnp.float32, jnp.bfloat16))
  calls.check_matrix(name, packed, x_NK.shape[1], (kind,))
  calls.check_array(name, 'scales', scales_M, 'M', (jnp.float32,), (packed.rows,))
  if bias_M is None:
    bias_M = reference.LEFT_OUT
  else:
    calls.check_array(name, 'bias', bias_M, 'M', (jnp.float32,), (packed.rows,))
  return x_NK, packed, scales_M, bias_M


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=['clusters', 'scale_C', 'bias_C', 'member_CM'], meta_fields=['probes']
)
@dataclasses.dataclass(frozen=True, eq=False)
class TileIndex:
  """Clusters over T = C * M tiles, a pytree. A token scores the C clusters and then the tiles of a few.

  Attributes:
    clusters: keys of the clusters, one packed matrix of C rows and D columns, of the same kind as the signatures.
    scale_C, bias_C: float32 [C], like `scale_T` and `bias_T` of `route`, or None.
    member_CM: int32 [C, M], the tiles of every cluster; each tile is in one.
    probes: P, the number of best matching clusters that a token probes.
  """

  clusters: PackedTernary | PackedInt8
  scale_C: jax.Array | None
  bias_C: jax.Array | None
  member_CM: jax.Array
  probes: int = 1


def route(
  x_ND: jax.Array,
  signatures: PackedTernary | PackedInt8 | jax.Array,
  bias_T: jax.Array | None = None,
  *,
  scale_T: jax.Array | None = None,
  top_k: int | None = None,
  index: TileIndex | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Find the tiles whose signatures match each token best.

  The score of a tile is the exact integer dot product of its signature with the token's int8 activations, times
  `scale_T`. The operation chooses tiles by (dot + bias / scale) * scale, in float32. Among equals the lowest index
  wins. A token that is not finite goes to tiles 0, 1, ... with scores NaN.

  With an index, the operation first chooses the best P clusters in the same way, and then tiles from them. Signatures,
  scales and biases are in the order of `member_CM`. Among equal tiles the first in that order wins.

  Args:
    x_ND: float32 or bfloat16 [N, D].
    signatures: one packed matrix of T rows and D columns, ternary or int8 tallies. Every call packs an int8 array
      [T, D] anew. With an index C matrices of M rows, [C, M, D].
    bias_T: float32 [T], with an index [C, M]: balance bias. It affects the choice but not the scores. Tiles without a
      positive scale have no bias. A tile whose selection is NaN is chosen last.
    scale_T: float32 [T], with an index [C, M]; 1 by default.
    top_k: how many tiles a token gets.
    index: clusters over the tiles.

  Returns:
    tile int32 and score float32: [N] without `top_k`, [N, top_k], best first, with it.

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
  """
  calls.check_array('route', 'x', x_ND, 'N D', (jnp.float32, jnp.bfloat16))
  keys = _check_keys('route', x_ND.shape[1], signatures, scale_T, bias_T, top_k, index)
  tile_NK, score_NK = _route(x_ND, keys, top_k or 1, index.probes if index else 0)
  return (tile_NK, score_NK) if top_k else (tile_NK[:, 0], score_NK[:, 0])


def routed_tile_ffn(
  x_ND: jax.Array,
  up: PackedTernary,
  up_scale_TH: jax.Array,
  down: PackedTernary,
  down_scale_TD: jax.Array,
  tile_NK: jax.Array,
  gate_NK: jax.Array,
  activation: str = 'relu_squared',
) -> jax.Array:
  """Pass each token through its own feed-forward tiles: y = sum_k gate_k * down(int8(act(up(int8(x))))).

  Both products are those of `ternary_matmul`, so hidden activations are quantised token by token and tile by tile.

  Args:
    x_ND: float32 or bfloat16 [N, D].
    up: T matrices of H rows and D columns.
    up_scale_TH: float32 [T, H].
    down: T matrices of D rows and H columns.
    down_scale_TD: float32 [T, D].
    tile_NK: int32 [N, K] or [N], tiles of each token, 0 <= tile < T.
    gate_NK: float32 like `tile_NK`, factors of their outputs.
    activation: `relu` or `relu_squared`.

  Returns:
    [N, D] in the dtype of `x_ND`.

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
    jax.errors.JaxRuntimeError, ValueError: from the kernels, when a tile is out of range; JAX decides which of the two.
      The reference gives NaN for that token.
  """
  name = 'routed_tile_ffn'
  _check_tiles(name, x_ND, up, up_scale_TH, down, down_scale_TD, activation)
  axes = 'N' if np.ndim(tile_NK) == 1 else 'N K'
  calls.check_array(name, 'tile', tile_NK, axes, (jnp.int32,), (x_ND.shape[0], None)[: len(axes.split())])
  calls.check_array(name, 'gate', gate_NK, axes, (jnp.float32,), tile_NK.shape)
  if axes == 'N':
    tile_NK, gate_NK = tile_NK[:, None], gate_NK[:, None]
  if not tile_NK.shape[1]:
    raise ValueError(f'{name}: every token needs at least one tile')
  return _routed_tile_ffn(x_ND, up, up_scale_TH, down, down_scale_TD, tile_NK, gate_NK, activation == 'relu_squared')


def routed_ffn(
  x_ND: jax.Array,
  signatures: PackedTernary | PackedInt8 | jax.Array,
  up: PackedTernary,
  up_scale_TH: jax.Array,
  down: PackedTernary,
  down_scale_TD: jax.Array,
  *,
  scale_T: jax.Array | None = None,
  bias_T: jax.Array | None = None,
  top_k: int = 1,
  index: TileIndex | None = None,
  gate: str = 'probability',
  keep_margin: float = math.inf,
  activation: str = 'relu_squared',
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Compute a whole feed-forward layer in one call: `route`, the gates of the chosen tiles, and `routed_tile_ffn`.

  Args:
    x_ND: float32 or bfloat16 [N, D].
    signatures, scale_T, bias_T, top_k, index: as for `route`, one signature a tile.
    up, up_scale_TH, down, down_scale_TD, activation: as for `routed_tile_ffn`.
    gate: `probability` or `one_hot`. `probability` is a chosen tile's part of softmax(score * step / sqrt(D)), where
      step is that of the token's int8 activations. The softmax is over all tiles, or with an index over all tiles of
      the probed clusters. `one_hot` is 1.
    keep_margin: a token drops the tiles for which (score of its first tile - own score) * step is above this margin.
      The kernel does not compute them, and their gates are 0.

  Returns:
    y [N, D] in the dtype of `x_ND`, the tiles int32 [N, top_k], best first, and their gates float32 [N, top_k].

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
  """
  name = 'routed_ffn'
  if gate not in GATES:
    raise ValueError(f'{name}: gate is {gate!r}; choose one of {", ".join(GATES)}')
  _check_tiles(name, x_ND, up, up_scale_TH, down, down_scale_TD, activation)
  if not keep_margin >= 0:
    raise ValueError(f'{name}: keep_margin = {keep_margin}; it must be 0 or more, infinity to keep all tiles')
  if top_k is None:
    raise ValueError(f'{name}: top_k is None; give the number of tiles that a token computes')
  keys = _check_keys(name, x_ND.shape[1], signatures, scale_T, bias_T, top_k, index, up.shape[0])
  return _routed_ffn(
    x_ND,
    keys,
    (up, up_scale_TH, down, down_scale_TD),
    top_k,
    index.probes if index else 0,
    gate == 'probability',
    float(keep_margin),
    activation == 'relu_squared',
  )


def _check_keys(name, width, signatures, scale_T, bias_T, top_k, index, tiles=None):
  """Check and return what the kernels score by: signatures, scales, offsets, and with an index those of clusters."""
  if not isinstance(signatures, PackedTernary | PackedInt8):
    axes, lengths = ('C M D', (None, None, width)) if index else ('T D', (None, width))
    calls.check_array(name, 'signatures', signatures, axes, (jnp.int8,), lengths)
    signatures = pack_int8(signatures)
  keys = _keys(name, 'signatures', width, signatures, scale_T, bias_T, 3 if index else 2)
  T = math.prod(signatures.shape[:-1])
  if tiles not in (None, T):
    raise ValueError(f'{name}: there are {T} signatures for {tiles} tiles; give one a tile')
  if index:
    C, M = signatures.shape[:2]
    keys += _keys(name, 'index: clusters', width, index.clusters, index.scale_C, index.bias_C, 2)
    if type(index.clusters) is not type(signatures) or index.clusters.rows != C:
      raise ValueError(
        f'{name}: index: {index.clusters.rows} {type(index.clusters).__name__} clusters of signatures '
        f'{type(signatures).__name__} {list(signatures.shape)}; they must be of one kind, [C, D] and '
        '[C, M, D]'
      )
    calls.check_array(name, 'index: member', index.member_CM, 'C M', (jnp.int32,), (C, M))
    if not isinstance(index.probes, int) or not 1 <= index.probes <= C:
      raise ValueError(f'{name}: index: probes = {index.probes!r} of {C} clusters; choose a number from 1 to {C}')
    keys += (index.member_CM,)
    T = index.probes * M
  if not T or (top_k is not None and not (isinstance(top_k, int) and 1 <= top_k <= T)):
    raise ValueError(f'{name}: top_k = {top_k!r} of {T} tiles that a token looks at; choose a number from 1 to {T}')
  return keys


def _keys(name, what, width, packed, scale, bias, rank):
  """Return packed keys, their scales and offsets, with defaults filled in."""
  check_packed(f'{name}: {what}', packed, (PackedTernary, PackedInt8))
  if len(packed.shape) != rank or packed.columns != width:
    shape = {2: '[rows, columns]', 3: '[C, M, columns] with an index'}[rank]
    raise ValueError(
      f'{name}: {what} must be {shape} with {width} columns, as the activations have, not {list(packed.shape)}'
    )
  shape = packed.shape[:-1]
  scale = jnp.ones(shape, jnp.float32) if scale is None else scale
  bias = jnp.zeros(shape, jnp.float32) if bias is None else bias
  axes = {2: 'T', 3: 'C M'}[rank]
  owner = '' if what == 'signatures' else f'{what}: '
  calls.check_array(name, f'{owner}scale', scale, axes, (jnp.float32,), shape)
  calls.check_array(name, f'{owner}bias', bias, axes, (jnp.float32,), shape)
  return packed, scale, _offsets(bias, scale)


def _check_tiles(name, x_ND, up, up_scale_TH, down, down_scale_TD, activation):
  if activation not in ACTIVATIONS:
    raise ValueError(f'{name}: activation is {activation!r}; choose one of {", ".join(ACTIVATIONS)}')
  calls.check_array(name, 'x', x_ND, 'N D', (jnp.float32, jnp.bfloat16))
  D = x_ND.shape[1]
  for which, weights in (('up', up), ('down', down)):
    check_packed(f'{name}: {which}', weights)
    if len(weights.shape) != 3 or not weights.shape[0]:
      raise ValueError(f'{name}: {which} must be packed from [T, rows, columns], not {list(weights.shape)}')
  T, H, _ = up.shape
  if up.columns != D or down.shape != (T, D, H):
    raise ValueError(
      f'{name}: x has width {D}, up is {list(up.shape)} and down is {list(down.shape)}; they must be '
      '[T, H, D] and [T, D, H]'
    )
  calls.check_array(name, 'up_scale', up_scale_TH, 'T H', (jnp.float32,), (T, H))
  calls.check_array(name, 'down_scale', down_scale_TD, 'T D', (jnp.float32,), (T, D))


@calls.inference_only
def _accumulate(q_NK, packed):
  return calls.on_cpu('trix_accumulate', reference.accumulate, q_NK, packed)


@calls.inference_only
def _ternary_matmul(x_NK, packed, scales_M, bias_M):
  y_NM = calls.on_cpu(
    'trix_ternary_matmul', reference.ternary_matmul, x_NK.astype(jnp.float32), packed, scales_M, bias_M
  )
  return y_NM.astype(x_NK.dtype)


@calls.inference_only
def _int8_matmul(x_NK, packed, scales_M, bias_M):
  y_NM = calls.on_cpu('trix_int8_matmul', reference.int8_matmul, x_NK.astype(jnp.float32), packed, scales_M, bias_M)
  return y_NM.astype(x_NK.dtype)


@calls.inference_only(static=(2, 3))
def _route(x_ND, keys, top_k, probes):
  settings: dict[str, Any] = {'probes': np.int64(probes)} if probes else {}
  return calls.on_cpu(
    f'trix_{"indexed_" if probes else ""}route_{_kind(keys)}',
    functools.partial(reference.route, top_k=top_k, probes=probes),
    x_ND.astype(jnp.float32),
    keys,
    **settings,
  )


@calls.inference_only(static=(7,))
def _routed_tile_ffn(x_ND, up, up_scale_TH, down, down_scale_TD, tile_NK, gate_NK, squared):
  y_ND = calls.on_cpu(
    'trix_routed_tile_ffn',
    functools.partial(reference.routed_tile_ffn, squared=squared),
    x_ND.astype(jnp.float32),
    up,
    up_scale_TH,
    down,
    down_scale_TD,
    tile_NK,
    gate_NK,
    squared=squared,
  )
  return y_ND.astype(x_ND.dtype)


@calls.inference_only(static=(3, 4, 5, 6, 7))
def _routed_ffn(x_ND, keys, tiles, top_k, probes, probability, keep_margin, squared):
  settings = {
    'probability': probability,
    'squared': squared,
    'temperature': np.float32(x_ND.shape[1] ** -0.5),
    'margin': np.float32(keep_margin),
  }
  otherwise = functools.partial(reference.routed_ffn, top_k=top_k, probes=probes, **settings)
  if probes:
    settings['probes'] = np.int64(probes)
  y_ND, tile_NK, gate_NK = calls.on_cpu(
    f'trix_{"indexed" if probes else "routed"}_ffn_{_kind(keys)}',
    otherwise,
    x_ND.astype(jnp.float32),
    keys,
    tiles,
    **settings,
  )
  return y_ND.astype(x_ND.dtype), tile_NK, gate_NK


def _kind(keys):
  return 'ternary' if isinstance(keys[0], PackedTernary) else 'int8'


def _offsets(bias_T, scale_T):
  """Divide the bias by the scale, so that no compiler fuses a multiply-add, whose single rounding changes near-ties."""
  return jnp.where(scale_T > 0, bias_T / jnp.where(scale_T > 0, scale_T, 1.0), 0.0)
