"""What stands between the products of a model: residual sums, normalisation and short convolutions, in one call.

XLA rounds sums differently when the shape of a batch changes. The kernels add in one order, so a token gets the same
bits alone and among others, on every instruction set.

Letters: N tokens, B rows of a batch, L tokens of a row, D model width, K = TAPS.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from xla_kernels import calls, reference

TAPS = 4
EPSILON = reference.EPSILON


def normalise(
  x_ND: jax.Array,
  scale_D: jax.Array,
  bias_D: jax.Array | None = None,
  *,
  add: jax.Array | None = None,
  epsilon: float = EPSILON,
) -> tuple[jax.Array, jax.Array]:
  """Add rows to a residual stream, and normalise the sums.

  Without a bias they are divided by their root mean square (arXiv 1910.07467). With a bias they are layer-normalised
  (arXiv 1607.06450).

  Args:
    x_ND: float32, the stream.
    scale_D, bias_D: float32.
    add: float32 [N, D].
    epsilon: is added to the mean square, at least 0; the default is Flax's.

  Returns:
    x + add, and what it is normalised; both float32 [N, D].

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
  """
  return tuple(_normalise(*_check('normalise', 'N D', x_ND, add, scale_D, bias_D, epsilon), float(epsilon)))


def normalise_and_convolve(
  x_BLD: jax.Array,
  scale_D: jax.Array,
  bias_D: jax.Array | None,
  taps_KD: jax.Array,
  inputs_BJD: jax.Array,
  valid_B: jax.Array,
  *,
  add: jax.Array | None = None,
  epsilon: float = EPSILON,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Compute `normalise`, and mix each token h_t with those before it: h_t + sum_i taps[i] * h_{t - i}.

  Args:
    x_BLD, scale_D, bias_D, add, epsilon: as for `normalise`, with rows of tokens.
    taps_KD: float32.
    inputs_BJD: float32, what was normalised of the J = K - 1 tokens before, zeros at the start of a text.
    valid_B: int32, from 0 to L, how many tokens of a row are valid. Later ones change only their own results.

  Returns:
    x + add and the mixed tokens, float32 [B, L, D], and the inputs for the tokens that follow the valid ones.

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
    jax.errors.JaxRuntimeError, ValueError: from the kernel, for a number of valid tokens out of range.
  """
  name = 'normalise_and_convolve'
  operands = _check(name, 'B L D', x_BLD, add, scale_D, bias_D, epsilon)
  B, _, D = x_BLD.shape
  calls.check_array(name, 'taps', taps_KD, 'K D', (jnp.float32,), (TAPS, D))
  calls.check_array(name, 'inputs', inputs_BJD, 'B J D', (jnp.float32,), (B, TAPS - 1, D))
  calls.check_array(name, 'valid', valid_B, 'B', (jnp.int32,), (B,))
  return tuple(_normalise_and_convolve(*operands, taps_KD, inputs_BJD, valid_B, float(epsilon)))


def _check(name, axes, x, add, scale_D, bias_D, epsilon):
  if not isinstance(epsilon, int | float | np.number) or not 0 <= epsilon <= np.finfo(np.float32).max:
    raise ValueError(f'{name}: epsilon = {epsilon!r}; it must be a finite number, and not negative')
  calls.check_array(name, 'x', x, axes, (jnp.float32,))
  D = x.shape[-1]
  if not D:
    raise ValueError(f'{name}: x has no columns')
  calls.check_array(name, 'scale', scale_D, 'D', (jnp.float32,), (D,))
  if add is None:
    add = reference.LEFT_OUT.reshape((0,) * x.ndim)
  else:
    calls.check_array(name, 'add', add, axes, (jnp.float32,), x.shape)
  if bias_D is None:
    bias_D = reference.LEFT_OUT
  else:
    calls.check_array(name, 'bias', bias_D, 'D', (jnp.float32,), (D,))
  return x, add, scale_D, bias_D


@calls.inference_only(static=(4,))
def _normalise(x_ND, y_ND, scale_D, bias_D, epsilon):
  otherwise = functools.partial(reference.normalise, epsilon=epsilon)
  return calls.on_cpu('trix_normalise', otherwise, x_ND, y_ND, scale_D, bias_D, epsilon=np.float32(epsilon))


@calls.inference_only(static=(7,))
def _normalise_and_convolve(x_BLD, y_BLD, scale_D, bias_D, taps_KD, inputs_BJD, valid_B, epsilon):
  return calls.on_cpu(
    'trix_normalise_and_convolve',
    functools.partial(reference.normalise_and_convolve, epsilon=epsilon),
    x_BLD,
    y_BLD,
    scale_D,
    bias_D,
    taps_KD,
    inputs_BJD,
    valid_B,
    in_place={5: 2},  # A loop that decodes then copies no inputs.
    epsilon=np.float32(epsilon),
  )
