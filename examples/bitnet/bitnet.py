"""BitNet b1.58 2B-4T (arXiv 2504.12285) on `xla_kernels` alone: read Hugging Face's files, compute logits, write text.

  config, weights = bitnet.load('FOLDER')  # config.json and *.safetensors
  tokens_BL = bitnet.generate(config, weights, prompt_BL, length=50)

A block is attention with rotary positions and shared keys and values, then a gated feed-forward layer whose activation
is relu(gate)^2 * up. All seven matrices of a block are ternary with one scale each, and their inputs are int8. A norm
stands before each block half, and a second one, the sub-norm, before the last matrix of each half.

Letters: B rows, L tokens of a row, N = B * L, V vocabulary, D model width, F hidden units, E heads times their width.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors import flax as safetensors

import xla_kernels
from xla_kernels import reference

CODES_OF_A_BYTE = 4
SMALLEST_SCALE = 1e-5  # Of latent weights, as in transformers.
PRECISIONS = ('int8', 'float32')


@dataclasses.dataclass(frozen=True)
class BitNetConfig:
  """Sizes of a model, by default those of 2B-4T. `multiplies_scale` tells how files store scales; see `read_config`."""

  vocabulary: int = 128_256
  d_model: int = 2560
  d_ff: int = 6912
  layers: int = 30
  heads: int = 20
  kv_heads: int = 5
  context: int = 4096
  epsilon: float = 1e-5
  rope_base: float = 500_000.0
  multiplies_scale: bool = True

  @property
  def width(self) -> int:
    """Return the width of a head."""
    return self.d_model // self.heads


class Matrix(NamedTuple):
  """A packed ternary matrix with a scale for each row; the rows of several matrices may follow one another."""

  packed: xla_kernels.PackedTernary
  scale_M: jax.Array


class Layer(NamedTuple):
  """The weights of a block."""

  attention_norm_D: jax.Array
  qkv: Matrix
  attention_sub_norm_E: jax.Array
  out: Matrix
  ffn_norm_D: jax.Array
  gate_and_up: Matrix
  ffn_sub_norm_F: jax.Array
  down: Matrix


class Weights(NamedTuple):
  """The weights of a model. The head is packed int8 with a scale for each row, or the float32 matrix [V, D]."""

  embedding_VD: jax.Array
  layers: list[Layer]
  norm_D: jax.Array
  head: tuple[xla_kernels.PackedInt8, jax.Array] | jax.Array


class Cache(NamedTuple):
  """Keys and values of earlier tokens, one entry for each layer, and their number in each row."""

  layers: list[Any]
  position_B: jax.Array


# What this example computes, where a config could say something else; and what a config must say.
_ONLY = {'hidden_act': 'relu2', 'tie_word_embeddings': True, 'attention_bias': False, 'rope_scaling': None}
_NEEDED = (
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'num_key_value_heads',
  'max_position_embeddings',
  'rms_norm_eps',
)


def read_config(folder: pathlib.Path | str) -> BitNetConfig:
  """Read config.json, as transformers writes it.

  `AutoBitLinear` multiplies its output by the stored scale; `BitLinear` divides by it.
  """
  values = json.loads((pathlib.Path(folder) / 'config.json').read_text())
  if not isinstance(values, dict) or values.get('model_type') != 'bitnet':
    raise ValueError(f'{folder}: config.json is not of model_type bitnet')
  rope = values.get('rope_parameters') or {}
  for name, only in _ONLY.items():
    if values.get(name, only) != only:
      raise ValueError(f'{folder}: config.json has {name} = {values[name]!r}; this example computes {only!r} only')
  if missing := [name for name in _NEEDED if name not in values]:
    raise ValueError(f'{folder}: config.json lacks {", ".join(missing)}')
  return BitNetConfig(
    vocabulary=values['vocab_size'],
    d_model=values['hidden_size'],
    d_ff=values['intermediate_size'],
    layers=values['num_hidden_layers'],
    heads=values['num_attention_heads'],
    kv_heads=values['num_key_value_heads'],
    context=values['max_position_embeddings'],
    epsilon=values['rms_norm_eps'],
    rope_base=values.get('rope_theta') or rope.get('rope_theta', BitNetConfig.rope_base),
    multiplies_scale=(values.get('quantization_config') or {}).get('linear_class') == 'autobitlinear',
  )


def load(folder: pathlib.Path | str, head: str = 'int8') -> tuple[BitNetConfig, Weights]:
  """Read a model in the layout of Hugging Face, and pack it.

  Matrices may be packed codes (uint8, four rows to a byte) with a `weight_scale`, or latent weights of training.

  Args:
    folder: has config.json and *.safetensors.
    head: precision of the output head, one of PRECISIONS.

  Raises:
    ValueError: for another kind of model, a missing array, or one of another shape.
  """
  config = read_config(folder)
  arrays: dict[str, jax.Array] = {}
  for path in sorted(pathlib.Path(folder).glob('*.safetensors')):
    try:
      arrays |= safetensors.load_file(path)
    except SafetensorError as error:
      raise ValueError(f'{path}: {error}') from error

  def take(name: str, *shape: int) -> jax.Array:
    if name not in arrays:
      raise ValueError(f'{folder}: no array is called {name}')
    if arrays[name].shape != shape:
      raise ValueError(f'{folder}: {name} has shape {list(arrays[name].shape)}, not {list(shape)}')
    return arrays.pop(name)

  def read_matrix(name: str, rows: int, columns: int) -> tuple[np.ndarray, float]:
    if arrays.get(f'{name}.weight', jnp.zeros(0)).dtype != jnp.uint8:
      return ternarise(np.asarray(take(f'{name}.weight', rows, columns), np.float32))
    codes_MK = unpack_codes(np.asarray(take(f'{name}.weight', rows // CODES_OF_A_BYTE, columns)))
    scale = float(take(f'{name}.weight_scale', 1)[0])
    return codes_MK, scale if config.multiplies_scale else 1 / scale

  return config, assemble(config, take, read_matrix, head)


def assemble(
  config: BitNetConfig,
  read: Callable[..., jax.Array],
  read_matrix: Callable[[str, int, int], tuple[np.ndarray, float]],
  head: str,
) -> Weights:
  """Pack a model from functions that read its arrays by their names.

  Args:
    config: of the model.
    read: (name, *shape) -> array of floats.
    read_matrix: (name, rows, columns) -> codes int8 [rows, columns], scale.
    head: see `load`.
  """
  if head not in PRECISIONS:
    raise ValueError(f'head precision is {head!r}; choose one of {", ".join(PRECISIONS)}')
  D, F, W = config.d_model, config.d_ff, config.width
  kv = config.kv_heads * W

  def read_norm(name: str, columns: int) -> jax.Array:
    return read(f'{name}.weight', columns).astype(jnp.float32)

  def join(name: str, columns: int, **rows: int) -> Matrix:
    codes, scales = zip(*(read_matrix(f'{name}.{part}_proj', rows[part], columns) for part in rows), strict=True)
    scale_M = np.repeat(np.array(scales, np.float32), list(rows.values()))
    return Matrix(xla_kernels.pack(np.concatenate(codes)), jnp.asarray(scale_M))

  def read_layer(name: str) -> Layer:
    return Layer(
      read_norm(f'{name}.input_layernorm', D),
      join(f'{name}.self_attn', D, q=D, k=kv, v=kv),
      read_norm(f'{name}.self_attn.attn_sub_norm', D),
      join(f'{name}.self_attn', D, o=D),
      read_norm(f'{name}.post_attention_layernorm', D),
      join(f'{name}.mlp', D, gate=F, up=F),
      read_norm(f'{name}.mlp.ffn_sub_norm', F),
      join(f'{name}.mlp', F, down=D),
    )

  embedding_VD = read('model.embed_tokens.weight', config.vocabulary, D)
  return Weights(
    embedding_VD,
    [read_layer(f'model.layers.{layer}') for layer in range(config.layers)],
    read_norm('model.norm', D),
    embedding_VD.astype(jnp.float32) if head == 'float32' else _pack_head(embedding_VD),
  )


def unpack_codes(packed: np.ndarray) -> np.ndarray:
  """Unpack codes of transformers: byte row r holds the rows r, r + R, r + 2 R and r + 3 R of R byte rows."""
  return np.concatenate([(packed >> 2 * part & 3).astype(np.int8) - 1 for part in range(CODES_OF_A_BYTE)])


def ternarise(latent_MK: np.ndarray) -> tuple[np.ndarray, float]:
  """Return the codes of latent weights by their mean magnitude, and the scale."""
  scale = max(float(np.abs(latent_MK).mean()), SMALLEST_SCALE)
  return np.clip(np.rint(latent_MK * (1 / np.float32(scale))), -1, 1).astype(np.int8), scale


def _pack_head(embedding_VD):
  codes_VD, scale_V1 = reference.quantise(embedding_VD.astype(jnp.float32))
  return xla_kernels.pack_int8(codes_VD), scale_V1[:, 0]


def empty_cache(config: BitNetConfig, batch: int, slots: int, dtype: Any = jnp.int8) -> Cache:
  """Make a cache with room for `slots` tokens in each row, of int8 or float32."""
  layers = [xla_kernels.empty_cache(batch, config.kv_heads, config.width, slots, dtype) for _ in range(config.layers)]
  return Cache(layers, jnp.zeros(batch, jnp.int32))


@functools.cache
def rotary_tables(config: BitNetConfig) -> xla_kernels.RotaryTables:
  """Make the cosines and sines of all positions."""
  half = config.width // 2
  frequency_U = 1 / config.rope_base ** (np.arange(half, dtype=np.float32) / half)
  angle_PU = np.arange(config.context, dtype=np.float32)[:, None] * frequency_U
  return xla_kernels.RotaryTables(np.cos(angle_PU), np.sin(angle_PU))


def multiply(x_NK: jax.Array, matrix: Matrix) -> jax.Array:
  """Quantise rows to int8, and multiply."""
  return xla_kernels.ternary_matmul(x_NK, matrix.packed, matrix.scale_M)


def apply_layer(
  config: BitNetConfig, layer: Layer, x_BLD: jax.Array, y_BLD: jax.Array | None, position_B: jax.Array, key_values: Any
) -> tuple[jax.Array, jax.Array, Any]:
  """Compute a block on the stream x + y. Return what it leaves in the same form, and the new keys and values."""
  B, L, D = x_BLD.shape
  norm = functools.partial(xla_kernels.normalise, epsilon=config.epsilon)
  x_ND, h_ND = norm(x_BLD.reshape(-1, D), layer.attention_norm_D, add=None if y_BLD is None else y_BLD.reshape(-1, D))
  qkv_BLE = multiply(h_ND, layer.qkv).reshape(B, L, -1)
  out_BLE, key_values = xla_kernels.cached_attention(qkv_BLE, position_B, key_values, rotary=rotary_tables(config))
  y_ND = multiply(norm(out_BLE.reshape(-1, D), layer.attention_sub_norm_E)[1], layer.out)
  x_ND, h_ND = norm(x_ND, layer.ffn_norm_D, add=y_ND)
  gate_NF, up_NF = jnp.split(multiply(h_ND, layer.gate_and_up), 2, axis=-1)
  hidden_NF = jnp.square(jax.nn.relu(gate_NF)) * up_NF
  y_ND = multiply(norm(hidden_NF, layer.ffn_sub_norm_F)[1], layer.down)
  return x_ND.reshape(B, L, D), y_ND.reshape(B, L, D), key_values


def forward(config: BitNetConfig, weights: Weights, token_BL: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
  """Compute new tokens that follow those of the cache: normalised states [B, L, D] for `logits`, and the new cache."""
  x_BLD, y_BLD = jnp.take(weights.embedding_VD, token_BL, axis=0, mode='clip').astype(jnp.float32), None
  layers = []
  for layer, key_values in zip(weights.layers, cache.layers, strict=True):
    x_BLD, y_BLD, key_values = apply_layer(config, layer, x_BLD, y_BLD, cache.position_B, key_values)
    layers.append(key_values)
  D = config.d_model
  add = None if y_BLD is None else y_BLD.reshape(-1, D)
  _, h_ND = xla_kernels.normalise(x_BLD.reshape(-1, D), weights.norm_D, add=add, epsilon=config.epsilon)
  return h_ND.reshape(x_BLD.shape), Cache(layers, cache.position_B + token_BL.shape[1])


def logits(weights: Weights, h_ND: jax.Array) -> jax.Array:
  """Score every token of the vocabulary, [N, V]."""
  if isinstance(weights.head, tuple):
    return xla_kernels.int8_matmul(h_ND, *weights.head)
  return h_ND @ weights.head.T


@functools.partial(jax.jit, static_argnums=0)
def prefill(config: BitNetConfig, weights: Weights, token_BL: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
  """Read prompts of one length. Return the logits [B, V] of what follows them, and the cache to go on from."""
  h_BLD, cache = forward(config, weights, token_BL, cache)
  return logits(weights, h_BLD[:, -1]), cache


@functools.partial(jax.jit, static_argnums=(0, 3), donate_argnums=2)
def write(
  config: BitNetConfig,
  weights: Weights,
  state: tuple[jax.Array, Cache],
  steps: int,
  key: jax.Array,
  temperature: jax.Array,
  top_k: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, Cache]]:
  """Draw `steps` tokens of every row, int32 [B, steps]. Return them and the new state, (logits, cache)."""
  B = state[0].shape[0]
  how = jnp.full(B, temperature, jnp.float32), jnp.full(B, top_k, jnp.int32)

  def step(state, uniform_B):
    logits_BV, cache = state
    token_B = xla_kernels.draw(logits_BV, uniform_B, *how)
    h_B1D, cache = forward(config, weights, token_B[:, None], cache)
    return (logits(weights, h_B1D[:, 0]), cache), token_B

  state, token_SB = jax.lax.scan(step, state, jax.random.uniform(key, (steps, B), jnp.float32))
  return token_SB.T, state


def stream(
  config: BitNetConfig,
  weights: Weights,
  prompt_BL: np.ndarray,
  length: int,
  *,
  temperature: float = 0.0,
  top_k: int = 0,
  seed: int = 0,
  chunk: int = 8,
  cache_dtype: Any = jnp.int8,
) -> Iterator[np.ndarray]:
  """Continue prompts, and yield a few tokens of every row at a time, int32 [B, at most `chunk`].

  Raises:
    ValueError: when prompt and continuation are longer than the context, or tokens are not of the vocabulary.
  """
  prompt_BL = np.asarray(prompt_BL, np.int32)
  B, L = prompt_BL.shape
  if not B or not L or length < 1 or L + length > config.context:
    raise ValueError(
      f'{B} prompt(s) of {L} tokens and {length} more; there must be one at least of each, and {config.context} tokens '
      'at most'
    )
  if prompt_BL.min() < 0 or prompt_BL.max() >= config.vocabulary:
    raise ValueError(f'tokens must be from 0 to {config.vocabulary - 1}')
  state = prefill(config, weights, prompt_BL, empty_cache(config, B, L + length + chunk, cache_dtype))
  settings = np.float32(temperature), np.int32(top_k or config.vocabulary)
  for done in range(0, length, chunk):
    key = jax.random.fold_in(jax.random.key(seed), done)
    token_BS, state = write(config, weights, state, chunk, key, *settings)
    yield np.asarray(token_BS)[:, : length - done]


def generate(config: BitNetConfig, weights: Weights, prompt_BL: np.ndarray, length: int, **settings: Any) -> np.ndarray:
  """Return the tokens that `stream` yields, [B, length]; it has the settings."""
  return np.concatenate(list(stream(config, weights, prompt_BL, length, **settings)), axis=1)
