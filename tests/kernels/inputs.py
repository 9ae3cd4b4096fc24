"""Inputs of the kernel tests, and a way to run them on every path."""

import jax
import numpy as np
from hypothesis import strategies as st

import xla_kernels
from xla_kernels import native

ODD_SIZES = st.tuples(st.integers(1, 140), st.integers(1, 300), st.integers(0, 40), st.integers(0, 99))


def codes_of(rng, shape):
  return rng.integers(-1, 2, shape).astype(np.int8)


def paths():
  return [path for path in native.available_paths() if path != native.REFERENCE]


def on_every_path(function):
  """Results of a function under each native path."""
  results = []
  try:
    for path in paths():
      native.force(path)
      results.append(jax.tree.map(np.asarray, function()))
  finally:
    native.force(native.available_paths()[0])
  return results


def quantised(x):
  """float64 NumPy's reading of the quantiser: only the operations that are promised in float32 are in float32."""
  a = np.abs(x).max(axis=-1, keepdims=True)
  q = np.rint(np.float64(x * (np.float32(127) / np.where(a > 0, a, np.float32(1)))))
  return q, a * np.float32(1 / np.float32(127))


def ffn_arguments(rng, N, D, H, T, K):
  return (
    rng.normal(size=(N, D)).astype(np.float32),
    xla_kernels.pack(codes_of(rng, (T, H, D))),
    rng.uniform(0.1, 1, (T, H)).astype(np.float32),
    xla_kernels.pack(codes_of(rng, (T, D, H))),
    rng.uniform(0.1, 1, (T, D)).astype(np.float32),
    rng.integers(0, T, (N, K)).astype(np.int32),
    rng.uniform(0, 1, (N, K)).astype(np.float32),
  )
