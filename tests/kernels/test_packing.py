import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xla_kernels
from xla_kernels import packing


def random_codes(shape, seed=0):
  return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.int8)


@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 140), st.integers(1, 70), st.integers(0, 9))
def test_unpacking_gives_the_codes_back(lead, rows, columns, seed):
  codes = random_codes((*lead, rows, columns), seed)
  packed = xla_kernels.pack(codes)
  assert packed.shape == codes.shape
  assert packed.data.shape == (*lead, packing.packed_bytes(rows, columns))
  np.testing.assert_array_equal(xla_kernels.unpack(packed), codes)


def test_bytes_of_a_narrow_block():
  # Rows 0, 4, 8, 12 are the planes of lane 0; byte 0 is their column 0: (1 + 1) + 4 (0 + 1) + 16 (-1 + 1) + 64 * -1.
  codes = np.zeros((16, 16), np.int8)
  codes[[0, 4, 8, 12], 0] = 1, 0, -1, -1
  codes[13, 6] = 1  # Plane 3, lane 1, group 1, column 2 of it.
  data = np.asarray(xla_kernels.pack(codes).data).astype(np.int8)
  want = np.full(64, 1 + 4 + 16, np.int8)
  want[0] = 2 + 4 + 0 - 64
  want[16 + 4 + 2] += 64
  np.testing.assert_array_equal(data, want)


def test_bytes_of_a_wide_block():
  codes = np.zeros((64, 16), np.int8)
  codes[35, 9] = 1  # Plane 2, lane 3, group 2, column 1 of it.
  data = np.asarray(xla_kernels.pack(codes).data).astype(np.int8)
  want = np.full(256, 1 + 4 + 16, np.int8)
  want[2 * 64 + 3 * 4 + 1] += 16
  np.testing.assert_array_equal(data, want)


def test_bytes_of_a_thin_block():
  codes = np.zeros((20, 6), np.int8)
  codes[18, 5] = -1  # The thin block after a narrow one: plane 2, column 5, which is its byte.
  data = np.asarray(xla_kernels.pack(codes).data).astype(np.int8)
  want = np.full(4 * 8 + 8, 1 + 4 + 16, np.int8)
  want[4 * 8 + 5] -= 16
  np.testing.assert_array_equal(data, want)


def in_the_first_layout(codes):
  """Pack one matrix as the first layout did: rows and columns in multiples of 16, and no thin blocks."""
  rows, columns = codes.shape
  padded = np.zeros((-(-rows // 16) * 16, -(-columns // 16) * 16), int)
  padded[:rows, :columns] = codes
  wide = len(padded) // 64 * 64
  bytes_ = []
  blocks = [padded[i : i + 64] for i in range(0, wide, 64)] + [padded[i : i + 16] for i in range(wide, len(padded), 16)]
  for block in blocks:
    lanes = len(block) // 4
    for group in range(0, padded.shape[1], 4):
      for lane in range(lanes):
        for column in range(group, group + 4):
          planes = block[lane::lanes, column]
          bytes_.append(int(planes @ [1, 4, 16, 64]) + 21 & 255)
  return np.array(bytes_, np.uint8)


@pytest.mark.parametrize('shape', [(1, 1), (4, 128), (128, 4), (64, 16), (83, 35)])
def test_the_first_layout_is_repacked(shape):
  codes = random_codes(shape)
  old = in_the_first_layout(codes)
  got = packing.repack(np.stack([old, old]), *shape)
  np.testing.assert_array_equal(got, xla_kernels.pack(np.stack([codes, codes])).data)
  if shape == (64, 16):
    assert isinstance(got, np.ndarray)  # Without padding both layouts are the same, so JAX has nothing to do.
  with pytest.raises(ValueError, match='first layout'):
    packing.repack(old[:-1], *shape)


@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 70), st.integers(1, 70), st.integers(0, 9))
def test_unpacking_gives_int8_back(lead, rows, columns, seed):
  weights = np.random.default_rng(seed).integers(-128, 128, (*lead, rows, columns)).astype(np.int8)
  packed = xla_kernels.pack_int8(weights)
  assert packed.shape == weights.shape
  assert packed.data.shape == (*lead, packing.packed_int8_bytes(rows, columns))
  np.testing.assert_array_equal(xla_kernels.unpack(packed), weights)


def test_bytes_of_int8():
  weights = np.zeros((20, 9), np.int8)
  weights[18, 6] = -5  # Block 1, lane 2, group 1, column 2 of it.
  data = np.asarray(xla_kernels.pack_int8(weights).data)
  assert data.shape == (32 * 16,)
  assert np.flatnonzero(data).tolist() == [16 * 16 + 64 + 2 * 4 + 2] and data.min() == -5


@pytest.mark.parametrize(
  'weights, error, message',
  [
    (np.ones((3, 3), np.int16), TypeError, 'int8, not int16'),
    (np.ones(3, np.int8), ValueError, r'not \(3,\)'),
    (np.ones((0, 3), np.int8), ValueError, 'M >= 1'),
    ([[1]], TypeError, 'not list'),
  ],
)
def test_what_is_no_int8_matrix(weights, error, message):
  with pytest.raises(error, match=message):
    xla_kernels.pack_int8(weights)


def test_two_bits_a_weight_without_padding_of_small_tiles():
  assert packing.packed_bytes(4096, 4096) == 4096 * 4096 // 4
  assert packing.packed_bytes(16, 128) == 16 * 128 // 4
  assert packing.packed_bytes(4, 128) == packing.packed_bytes(128, 4) == 4 * 128 // 4
  assert packing.packed_bytes(17, 130) == 20 * 132 // 4


@pytest.mark.parametrize('dtype', [np.uint8, np.uint32, np.int64, jnp.int2, jnp.int4])
def test_packs_any_integer_type(dtype):
  codes = np.array([[0, 1], [1, 0]] if np.dtype(dtype).kind == 'u' else [[0, 1], [-1, 0]])
  np.testing.assert_array_equal(xla_kernels.unpack(xla_kernels.pack(codes.astype(dtype))), codes)


def test_packs_no_tiles():
  packed = xla_kernels.pack(np.zeros((0, 70, 20), np.int8))
  assert packed.shape == xla_kernels.unpack(packed).shape == (0, 70, 20)


def test_packs_under_jit_and_vmap():
  codes = random_codes((3, 20, 30))
  want = xla_kernels.pack(codes)
  for got in (jax.jit(xla_kernels.pack)(codes), jax.vmap(xla_kernels.pack)(jnp.asarray(codes))):
    assert (got.rows, got.columns) == (20, 30)
    np.testing.assert_array_equal(got.data, want.data)


@pytest.mark.parametrize(
  'codes, error',
  [
    (np.full((2, 2), 2, np.int8), ValueError),
    (np.full((2, 2), -2, np.int8), ValueError),
    (np.full((2, 2), 2, np.uint8), ValueError),
    ([[0, 1]], TypeError),
    (np.zeros((2, 2), np.float32), TypeError),
    (np.zeros(4, np.int8), ValueError),
    (np.zeros((0, 4), np.int8), ValueError),
    (np.zeros((4, 0), np.int8), ValueError),
    (np.zeros((1, packing.MAX_COLUMNS + 1), np.int8), ValueError),
  ],
)
def test_refuses_what_cannot_be_packed(codes, error):
  with pytest.raises(error, match='pack takes'):
    xla_kernels.pack(codes)


def test_refuses_data_that_do_not_fit_their_size():
  packed = xla_kernels.pack(random_codes((16, 16)))
  with pytest.raises(ValueError, match='uint8'):
    xla_kernels.unpack(xla_kernels.PackedTernary(packed.data[:-1], 16, 16))
  with pytest.raises(ValueError, match='uint8'):
    xla_kernels.unpack(xla_kernels.PackedTernary(packed.data.astype(jnp.int32), 16, 16))
