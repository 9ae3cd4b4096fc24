"""The operations: arguments checked, then the kernel on CPU and the reference elsewhere.

All take leading batch axes through `jax.vmap`, work under `jit`, `scan` and `shard_map`, and refuse to be
differentiated with respect to their floats. On arrays that are sharded over a mesh, outside `shard_map`, XLA replicates
what a custom call gets and gives: wrap it in `shard_map` to keep it sharded. `jax.export` takes custom calls only with
`jax.export.DisabledSafetyCheck.custom_call('trix_...')`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xla_kernels import native, reference
from xla_kernels.packing import MAX_TALLY_COLUMNS, PackedTernary, check_packed

ACTIVATIONS = ('relu', 'relu_squared')


def accumulate(q_NK: jax.Array, packed: PackedTernary) -> jax.Array:
  """Exact dot products of int8 activations with packed ternary rows.

  Args:
    q_NK: int8 [N, K].
    packed: one matrix of M rows and K columns.

  Returns:
    int32 [N, M].

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
  """
  _check_array('accumulate', 'q', q_NK, 'N K', (jnp.int8,))
  _check_matrix('accumulate', packed, q_NK.shape[1])
  return _accumulate(q_NK, packed)


def ternary_matmul(x_NK: jax.Array, packed: PackedTernary, scales_M: jax.Array) -> jax.Array:
  """Activations, quantised to int8 row by row, times packed ternary weights.

  y = (acc * step) * scale in float32, where acc is the exact integer product of q = rint(x * (127 / a)) with the codes,
  a = max |x| of the row and step = a * float32(1/127) (absmax quantisation as in BitNet b1.58, arXiv 2402.17764). A row
  with a < 2**-100 gives 0; a row that holds a NaN or an infinity gives NaN.

  Args:
    x_NK: float32 or bfloat16 [N, K].
    packed: one matrix of M rows and K columns.
    scales_M: float32 [M], factor of each output.

  Returns:
    [N, M] in the dtype of `x_NK`.

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
  """
  _check_array('ternary_matmul', 'x', x_NK, 'N K', (jnp.float32, jnp.bfloat16))
  _check_matrix('ternary_matmul', packed, x_NK.shape[1])
  _check_array('ternary_matmul', 'scales', scales_M, 'M', (jnp.float32,), (packed.rows,))
  return _ternary_matmul(x_NK, packed, scales_M)


def route(x_ND: jax.Array, signatures: PackedTernary | jax.Array, bias_T: jax.Array | None = None, *,
          scale_T: jax.Array | None = None, top_k: int | None = None) -> tuple[jax.Array, jax.Array]:
  """The tiles whose signatures match each token best.

  The score of a tile is the exact integer dot product of its signature with the token's int8 activations, times
  `scale_T`. Tiles are chosen by (dot + bias / scale) * scale, in float32; among equals the lowest index wins. A token
  that is not finite goes to tiles 0, 1, ... with scores NaN.

  Args:
    x_ND: float32 or bfloat16 [N, D].
    signatures: ternary, packed as one matrix of T rows and D columns, or tallies, int8 [T, D], for D up to
      MAX_TALLY_COLUMNS.
    bias_T: float32 [T], balance bias; it takes part in choosing, not in the scores. A tile whose scale is not positive
      has none. A tile whose selection is NaN is chosen last.
    scale_T: float32 [T], 1 by default.
    top_k: how many tiles a token gets.

  Returns:
    tile int32 and score float32: [N] without `top_k`, [N, top_k], best first, with it.

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
  """
  _check_array('route', 'x', x_ND, 'N D', (jnp.float32, jnp.bfloat16))
  if isinstance(signatures, PackedTernary):
    _check_matrix('route', signatures, x_ND.shape[1])
  else:
    _check_array('route', 'signatures', signatures, 'T D', (jnp.int8,), (None, x_ND.shape[1]))
    if not 1 <= x_ND.shape[1] <= MAX_TALLY_COLUMNS:
      raise ValueError(f'route: int8 signatures have 1 to {MAX_TALLY_COLUMNS} columns, not {x_ND.shape[1]}')
  T = signatures.shape[0]
  if not T or (top_k is not None and not (isinstance(top_k, int) and 1 <= top_k <= T)):
    raise ValueError(f'route: top_k = {top_k!r} of {T} tiles; choose a number from 1 to {T}')
  scale_T = jnp.ones(T, jnp.float32) if scale_T is None else scale_T
  bias_T = jnp.zeros(T, jnp.float32) if bias_T is None else bias_T
  _check_array('route', 'scale', scale_T, 'T', (jnp.float32,), (T,))
  _check_array('route', 'bias', bias_T, 'T', (jnp.float32,), (T,))
  tile_NK, score_NK = _route(x_ND, signatures, scale_T, bias_T, top_k or 1)
  return (tile_NK, score_NK) if top_k else (tile_NK[:, 0], score_NK[:, 0])


def routed_tile_ffn(x_ND: jax.Array, up: PackedTernary, up_scale_TH: jax.Array, down: PackedTernary,
                    down_scale_TD: jax.Array, tile_NK: jax.Array, gate_NK: jax.Array,
                    activation: str = 'relu_squared') -> jax.Array:
  """Feed-forward tiles, each token through its own: y = sum_k gate_k * down(int8(act(up(int8(x))))).

  Both products are those of `ternary_matmul`, so that hidden activations are quantised token by token and tile by tile.

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
    jax.errors.JaxRuntimeError, ValueError: from the kernels, when a tile is out of range (which of the two, JAX
      decides); the reference gives NaN for that token.
  """
  name = 'routed_tile_ffn'
  if activation not in ACTIVATIONS:
    raise ValueError(f'{name}: activation is {activation!r}; choose one of {", ".join(ACTIVATIONS)}')
  _check_array(name, 'x', x_ND, 'N D', (jnp.float32, jnp.bfloat16))
  N, D = x_ND.shape
  for which, weights in (('up', up), ('down', down)):
    check_packed(f'{name}: {which}', weights)
    if len(weights.shape) != 3 or not weights.shape[0]:
      raise ValueError(f'{name}: {which} must be packed from [T, rows, columns], not {list(weights.shape)}')
  T, H, _ = up.shape
  if up.columns != D or down.shape != (T, D, H):
    raise ValueError(f'{name}: x has width {D}, up is {list(up.shape)} and down is {list(down.shape)}; they must be '
                     '[T, H, D] and [T, D, H]')
  _check_array(name, 'up_scale', up_scale_TH, 'T H', (jnp.float32,), (T, H))
  _check_array(name, 'down_scale', down_scale_TD, 'T D', (jnp.float32,), (T, D))
  axes = 'N' if np.ndim(tile_NK) == 1 else 'N K'
  _check_array(name, 'tile', tile_NK, axes, (jnp.int32,), (N, None)[:len(axes.split())])
  _check_array(name, 'gate', gate_NK, axes, (jnp.float32,), tile_NK.shape)
  if axes == 'N':
    tile_NK, gate_NK = tile_NK[:, None], gate_NK[:, None]
  if not tile_NK.shape[1]:
    raise ValueError(f'{name}: every token needs at least one tile')
  return _routed_tile_ffn(x_ND, up, up_scale_TH, down, down_scale_TD, tile_NK, gate_NK, activation == 'relu_squared')


def _check_array(operation, name, array, axes, dtypes, lengths=()):
  """`axes` names the axes for the message; `lengths` gives those that are known."""
  if not hasattr(array, 'dtype') or array.dtype not in dtypes:
    raise TypeError(f'{operation}: {name} must be an array of {" or ".join(jnp.dtype(d).name for d in dtypes)}, '
                    f'not {getattr(array, "dtype", type(array).__name__)}')
  rank = len(axes.split())
  if array.ndim != rank or any(want not in (None, have) for want, have in zip(lengths, array.shape, strict=False)):
    known = f' = {[want if want is not None else "any" for want in lengths]}' if lengths else ''
    raise ValueError(f'{operation}: {name} must have shape [{axes}]{known}, not {list(array.shape)}')


def _check_matrix(operation, packed, columns):
  check_packed(operation, packed)
  if len(packed.shape) != 2:
    raise ValueError(f'{operation} takes one packed matrix, not an array of them {list(packed.shape)}; use jax.vmap')
  if packed.columns != columns:
    raise ValueError(f'{operation}: the activations have {columns} columns and the packed matrix {packed.columns}; '
                     'they must be equal')


def _inference_only(function: Callable[..., Any] | None = None, *, static: tuple[int, ...] = ()) -> Any:
  """Decorator: jitted, with the error that a gradient gets; `static` are the positions of hashable arguments."""
  if function is None:
    return functools.partial(_inference_only, static=static)
  name = f'xla_kernels.{function.__name__.lstrip("_")}'
  wrapped = jax.custom_jvp(function, nondiff_argnums=static)

  @wrapped.defjvp
  def _refuse(*_):
    raise NotImplementedError(f'{name} is for inference and has no gradient; train with trix_jax.ffn.SparseTriXFFN, '
                              'which is the same function of latent weights')

  return functools.wraps(function)(jax.jit(wrapped, static_argnums=static))


def _on_cpu(target: str, otherwise: Callable[..., Any], *arguments: Any, **attributes: Any) -> Any:
  """The kernel where a CPU runs it, the reference on other backends or without kernels.

  The kernel takes the leaves of `arguments` as its buffers and gives what the reference gives, in shape and dtype.
  """
  if not native.enabled():
    return otherwise(*arguments)
  results = jax.eval_shape(otherwise, *arguments)

  def kernel(*arguments):
    call = jax.ffi.ffi_call(target, results, vmap_method='expand_dims')
    return call(*jax.tree.leaves(arguments), **attributes)

  return jax.lax.platform_dependent(*arguments, cpu=kernel, default=otherwise)


@_inference_only
def _accumulate(q_NK, packed):
  return _on_cpu('trix_accumulate', reference.accumulate, q_NK, packed)


@_inference_only
def _ternary_matmul(x_NK, packed, scales_M):
  y_NM = _on_cpu('trix_ternary_matmul', reference.ternary_matmul, x_NK.astype(jnp.float32), packed, scales_M)
  return y_NM.astype(x_NK.dtype)


@_inference_only(static=(4,))
def _route(x_ND, signatures, scale_T, bias_T, top_k):
  # Before the scale, so that no compiler fuses a multiply-add: one rounding fewer would change near-ties.
  offset_T = jnp.where(scale_T > 0, bias_T / jnp.where(scale_T > 0, scale_T, 1.0), 0.0)
  target = 'trix_route_packed' if isinstance(signatures, PackedTernary) else 'trix_route_tally'
  return _on_cpu(target, functools.partial(reference.route, top_k=top_k), x_ND.astype(jnp.float32), signatures,
                 scale_T, offset_T)


@_inference_only(static=(7,))
def _routed_tile_ffn(x_ND, up, up_scale_TH, down, down_scale_TD, tile_NK, gate_NK, squared):
  y_ND = _on_cpu('trix_routed_tile_ffn', functools.partial(reference.routed_tile_ffn, squared=squared),
                 x_ND.astype(jnp.float32), up, up_scale_TH, down, down_scale_TD, tile_NK, gate_NK, squared=squared)
  return y_ND.astype(x_ND.dtype)
