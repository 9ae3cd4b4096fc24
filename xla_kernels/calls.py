"""Check the arguments of operations, and choose between the kernel and the reference."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xla_kernels import native
from xla_kernels.packing import PackedTernary, check_packed


def check_array(operation, name, array, axes, dtypes, lengths=()):
  """Check the axes, dtype and lengths of an array. `axes` names the axes; `lengths` gives the known lengths."""
  if not hasattr(array, 'dtype') or array.dtype not in dtypes:
    raise TypeError(
      f'{operation}: {name} must be an array of {" or ".join(jnp.dtype(d).name for d in dtypes)}, '
      f'not {getattr(array, "dtype", type(array).__name__)}'
    )
  rank = len(axes.split())
  if array.ndim != rank or any(want not in (None, have) for want, have in zip(lengths, array.shape, strict=False)):
    known = f' = {[want if want is not None else "any" for want in lengths]}' if lengths else ''
    raise ValueError(f'{operation}: {name} must have shape [{axes}]{known}, not {list(array.shape)}')


def check_matrix(operation, packed, columns, kinds=(PackedTernary,)):
  check_packed(operation, packed, kinds)
  if len(packed.shape) != 2:
    raise ValueError(f'{operation} takes one packed matrix, not an array of them {list(packed.shape)}; use jax.vmap')
  if packed.columns != columns:
    raise ValueError(
      f'{operation}: the activations have {columns} columns and the packed matrix {packed.columns}; they must be equal'
    )


def inference_only(function: Callable[..., Any] | None = None, *, static: tuple[int, ...] = ()) -> Any:
  """Jit a function (a decorator) and make its gradient an error; `static` are the positions of hashable arguments."""
  if function is None:
    return functools.partial(inference_only, static=static)
  name = f'xla_kernels.{function.__name__.lstrip("_")}'
  wrapped = jax.custom_jvp(function, nondiff_argnums=static)

  @wrapped.defjvp
  def _refuse(*_):
    raise NotImplementedError(
      f'{name} is for inference and has no gradient; train with trix_jax.nn.ffn.SparseTriXFFN, '
      'which is the same function of latent weights'
    )

  return functools.wraps(function)(jax.jit(wrapped, static_argnums=static))


def on_cpu(
  target: str, otherwise: Callable[..., Any], *arguments: Any, in_place: dict[int, int] | None = None, **attributes: Any
) -> Any:
  """Call the kernel on CPU, and the reference on other backends or without kernels.

  The kernel takes the leaves of `arguments` as its buffers. Its results have the shapes and dtypes of the reference's.
  `in_place` maps arguments to the results that may replace them, {argument: result}.
  """
  if not native.register():
    return otherwise(*arguments)
  results = jax.eval_shape(otherwise, *arguments)

  def kernel(*arguments):
    leaves, structure = jax.tree.flatten(results)
    # An argument and the result that replaces it must have one shape, so under vmap every operand gets all batch axes.
    call = jax.ffi.ffi_call(
      target, leaves, vmap_method='broadcast_all' if in_place else 'expand_dims', input_output_aliases=in_place
    )
    return jax.tree.unflatten(structure, call(*jax.tree.leaves(arguments), **attributes))

  return jax.lax.platform_dependent(*arguments, cpu=kernel, default=otherwise)
