"""The operations under the transformations of JAX, and the choice of a path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inputs import codes_of, ffn_arguments, paths

import xla_kernels
from xla_kernels import native, reference

x_, scales_ = np.ones((2, 32), np.float32), np.ones(16, np.float32)
packed_ = xla_kernels.pack(np.ones((16, 32), np.int8))
tiles_ = ffn_arguments(np.random.default_rng(0), 2, 32, 16, 4, 1)


@pytest.mark.parametrize(
  'name, function',
  [
    ('ternary_matmul', lambda x: xla_kernels.ternary_matmul(x, packed_, scales_)),
    ('route', lambda x: xla_kernels.route(x, packed_)[1]),
    ('routed_tile_ffn', lambda x: xla_kernels.routed_tile_ffn(x, *tiles_[1:])),
    ('routed_ffn', lambda x: xla_kernels.routed_ffn(x, np.ones((4, 32), np.int8), *tiles_[1:5])[0]),
    ('int8_matmul', lambda x: xla_kernels.int8_matmul(x, xla_kernels.pack_int8(np.ones((16, 32), np.int8)), scales_)),
  ],
)
def test_a_gradient_names_the_training_path(name, function):
  with pytest.raises(NotImplementedError, match=rf'{name} is for inference.*trix_jax\.nn\.ffn\.SparseTriXFFN'):
    jax.grad(lambda x: function(x).sum())(jnp.asarray(x_))


def test_scan_and_donated_buffers(path):
  packed = xla_kernels.pack(codes_of(np.random.default_rng(0), (32, 32)))

  def step(x, _):
    y = xla_kernels.ternary_matmul(x, packed, jnp.full(32, 0.2))
    return y, y

  x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32))
  want, wants = x, []
  for _ in range(4):
    want, _ = step(want, None)
    wants.append(want)
  got, gots = jax.jit(lambda x: jax.lax.scan(step, x, length=4), donate_argnums=0)(x)
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(gots, wants)
  assert x.is_deleted()


def test_vmap_over_activations_weights_or_both(path):
  rng = np.random.default_rng(0)
  xs = rng.normal(size=(3, 2, 32)).astype(np.float32)
  packed, scales = xla_kernels.pack(codes_of(rng, (3, 16, 32))), rng.normal(size=(3, 16)).astype(np.float32)
  one = jax.tree.map(lambda data: data[1], packed)
  want = np.stack(
    [
      [
        jax.jit(reference.ternary_matmul)(x, jax.tree.map(lambda data, i=i: data[i], packed), scales[i])
        for i in range(3)
      ]
      for x in xs
    ]
  )
  get = xla_kernels.ternary_matmul
  np.testing.assert_array_equal(jax.vmap(get, (0, None, None))(xs, one, scales[1]), want[:, 1])
  np.testing.assert_array_equal(jax.vmap(get, (None, 0, 0))(xs[0], packed, scales), want[0])
  np.testing.assert_array_equal(jax.vmap(get)(xs, packed, scales), want[np.arange(3), np.arange(3)])
  both = jax.vmap(jax.vmap(get, (None, 0, 0)), (0, None, None))
  np.testing.assert_array_equal(jax.jit(both)(xs, packed, scales), want)


def test_vmap_of_routing_and_tiles(path):
  rng = np.random.default_rng(0)
  arguments = ffn_arguments(rng, 6, 32, 16, 4, 2)
  xs = rng.normal(size=(3, 6, 32)).astype(np.float32)
  got = jax.vmap(lambda x: xla_kernels.routed_tile_ffn(x, *arguments[1:]))(xs)
  for x, y in zip(xs, got, strict=True):
    np.testing.assert_array_equal(y, xla_kernels.routed_tile_ffn(x, *arguments[1:]))
  for signatures in (codes_of(rng, (4, 32)), xla_kernels.pack(codes_of(rng, (4, 32)))):
    tiles, scores = jax.vmap(lambda x, signatures=signatures: xla_kernels.route(x, signatures))(xs)
    for x, tile, score in zip(xs, tiles, scores, strict=True):
      want = xla_kernels.route(x, signatures)
      np.testing.assert_array_equal(tile, want[0])
      np.testing.assert_array_equal(score, want[1])
    layers = jax.vmap(lambda x, signatures=signatures: xla_kernels.routed_ffn(x, signatures, *arguments[1:5]))(xs)
    for x, *got in zip(xs, *layers, strict=True):
      jax.tree.map(np.testing.assert_array_equal, tuple(got), xla_kernels.routed_ffn(x, signatures, *arguments[1:5]))


def test_shard_map_keeps_tokens_apart(path):
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec('data')
  rng = np.random.default_rng(0)
  packed, scales = xla_kernels.pack(codes_of(rng, (16, 32))), rng.normal(size=16).astype(np.float32)
  x = jax.device_put(
    rng.normal(size=(4 * jax.device_count(), 32)).astype(np.float32), jax.sharding.NamedSharding(mesh, spec)
  )
  sharded = jax.jit(
    jax.shard_map(lambda x: xla_kernels.ternary_matmul(x, packed, scales), mesh=mesh, in_specs=spec, out_specs=spec)
  )
  y = sharded(x)
  assert y.sharding.spec == spec
  np.testing.assert_array_equal(y, jax.jit(reference.ternary_matmul)(x, packed, scales))


def test_other_backends_lower_to_the_reference():
  lowered = jax.jit(xla_kernels.ternary_matmul).trace(x_, packed_, scales_).lower(lowering_platforms=('cuda',))
  assert 'trix_' not in lowered.as_text()
  if paths():
    assert 'trix_ternary_matmul' in jax.jit(xla_kernels.ternary_matmul).lower(x_, packed_, scales_).as_text()


def test_paths():
  assert xla_kernels.available_paths()[-1] == 'reference'
  assert xla_kernels.active_path() == xla_kernels.available_paths()[0]
  with pytest.raises(ValueError, match='choose one of'):
    native.force('avx1024')


def test_an_extension_of_other_sources_is_not_called(monkeypatch, caplog):
  monkeypatch.setattr(native, 'INTERFACE', -1)
  assert native._load() is None
  assert 'another version of the sources' in caplog.text and 'install trix-jax again' in caplog.text
