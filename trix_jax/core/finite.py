"""Find values that are not finite in trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp


def is_finite(tree: Any) -> jax.Array:
  """Return whether all values of all arrays are finite: a boolean scalar."""
  return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def first_not_finite(tree: Any, separator: str = '/') -> str | None:
  """Return the path of the first array with a value that is not finite, or None."""
  return next(
    (
      jax.tree_util.keystr(path, simple=True, separator=separator)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
      if not is_finite(leaf)
    ),
    None,
  )
