"""The language model: a pre-norm decoder-only transformer whose feed-forward layers are ternary tiles."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from trix_jax.core import attention, routing
from trix_jax.errors import InputError
from trix_jax.nn import controls, ffn, indexed_ffn

FORMS = ('reference', 'modern')
CONVOLUTION_WIDTH = 4


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The language model.

  Attributes:
    form: `reference` has learned positions, LayerNorm and biases everywhere outside the tiles, as the original.
      `modern` has rotary positions, RMSNorm, normalised queries and keys, short convolutions, and no biases.
    layers, d_model, heads, context: the usual sizes; context is in characters.
    dropout: on the embedding and on both residual branches, in training only; rounded to multiples of 1/256.
    ffn: the feed-forward layers.
    control: what the layers replace for an experiment, one of `controls.TABLE`.
  """

  form: str
  layers: int
  d_model: int
  heads: int
  context: int
  dropout: float
  ffn: ffn.FFNConfig
  control: str = controls.NONE

  def __post_init__(self):
    for name, allowed in (('form', FORMS), ('control', tuple(controls.TABLE))):
      if getattr(self, name) not in allowed:
        raise InputError(f'model.{name} is {getattr(self, name)!r}; choose one of {", ".join(allowed)}')
    for name in ('layers', 'd_model', 'heads', 'context'):
      if getattr(self, name) < 1:
        raise InputError(f'model.{name} = {getattr(self, name)}; it must be at least 1')
    if self.d_model % self.heads:
      raise InputError(f'model.heads = {self.heads} does not divide model.d_model = {self.d_model}')
    if self.form == 'modern' and self.d_model // self.heads % 2:
      raise InputError(
        f'rotary positions take an even width of a head, not d_model / heads = {self.d_model} / '
        f'{self.heads} = {self.d_model // self.heads}'
      )
    if not 0 <= self.dropout < 1:
      raise InputError(f'model.dropout = {self.dropout}; it must be at least 0 and less than 1')


def model_config(settings) -> ModelConfig:
  """Make a `ModelConfig` from the flat `model` section of a config.

  The section holds the fields of both dataclasses, which share `d_model`.
  """
  settings = dict(settings)
  ffn_names = {field.name for field in dataclasses.fields(ffn.FFNConfig)}
  own_names = {field.name for field in dataclasses.fields(ModelConfig)} - {'ffn'}
  return ModelConfig(
    **{k: v for k, v in settings.items() if k in own_names},
    ffn=ffn.FFNConfig(**{k: v for k, v in settings.items() if k in ffn_names}),
  )


@jax.custom_vjp
def project(x_BLD: jax.Array, kernel_DE: jax.Array) -> jax.Array:
  """Multiply by a kernel, [B, L, D] x [D, E] -> [B, L, E], with a kernel gradient that is fast on a CPU.

  The gradient sums one product for each window. A single product over all B * L rows is slower: XLA would transpose its
  operands first, and then multiply at a third of the speed.
  """
  return x_BLD @ kernel_DE


def _project_forward(x_BLD, kernel_DE):
  return project(x_BLD, kernel_DE), (x_BLD, kernel_DE)


def _project_backward(residuals, grad_BLE):
  x_BLD, kernel_DE = residuals
  return grad_BLE @ kernel_DE.T, jnp.einsum('bld,ble->bde', x_BLD, grad_BLE).sum(axis=0)


project.defvjp(_project_forward, _project_backward)


def head_norm(x_BLHD: jax.Array) -> jax.Array:
  """Normalise queries or keys to root mean square 1."""
  normalised: Any = nn.RMSNorm(use_scale=False, parent=None).apply({}, x_BLHD)
  return normalised


class SelfAttention(nn.Module):
  """Causal multi-head self-attention, [B, L, D] -> [B, L, D]."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    config, modern = self.config, self.config.form == 'modern'
    B, L, D = x_BLD.shape

    def dense(name):
      return nn.Dense(
        D,
        use_bias=not modern,
        kernel_init=nn.initializers.normal(D**-0.5),
        name=name,
        dot_general=lambda x_BLD, kernel_DE, *_, **__: project(x_BLD, kernel_DE),
      )

    def heads(name):
      return dense(name)(x_BLD).reshape(B, L, config.heads, -1)

    q_BLHD, k_BLHD, v_BLHD = heads('query'), heads('key'), heads('value')
    if modern:
      q_BLHD, k_BLHD = (attention.rotary(head_norm(x_BLHD)) for x_BLHD in (q_BLHD, k_BLHD))
    out_BLD = attention.causal_attention(q_BLHD, k_BLHD, v_BLHD).reshape(B, L, D)
    return dense('out')(out_BLD)


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
  """Zero a share of the entries, `rate` rounded to a multiple of 1/256, and scale the others so that the mean stays.

  It draws one random byte for each entry. `flax.linen.Dropout` draws four, which took a tenth of a training step on
  CPU.
  """
  dropped = min(round(256 * rate), 255)
  words = jax.random.bits(key, (-(-x.size // 4),), jnp.uint32)
  bytes_ = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
  return jnp.where(bytes_ >= dropped, x * (256 / (256 - dropped)), 0.0)


class Dropout(nn.Module):
  """Apply `dropout` in training, with a key from the RNG stream `dropout`; otherwise do nothing."""

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return dropout(x, self.rate, self.make_rng('dropout')) if train and self.rate else x


def short_convolution(x_BPD: jax.Array, taps_WD: jax.Array) -> jax.Array:
  """Map [B, W - 1 + L, D], whose first W - 1 inputs are earlier ones, to [B, L, D]; see `ShortConvolution`."""
  before = taps_WD.shape[0] - 1
  L = x_BPD.shape[1] - before
  return x_BPD[:, before:] + sum(taps_WD[lag] * x_BPD[:, before - lag : before - lag + L] for lag in range(before + 1))


class ShortConvolution(nn.Module):
  """Add to x_t a learned, per-feature mix of x_t ... x_{t-3}, zero at first: [B, L, D] -> [B, L, D].

  This depthwise causal convolution gives attention and tiles the last few characters for 4 D parameters. Primer
  (arXiv 2109.08668) has such convolutions in attention.
  """

  width: int = CONVOLUTION_WIDTH

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    taps_WD = self.param('taps', nn.initializers.zeros, (self.width, x_BLD.shape[-1]))
    return short_convolution(jnp.pad(x_BLD, ((0, 0), (self.width - 1, 0), (0, 0))), taps_WD)


class Block(nn.Module):
  """Attention and a ternary feed-forward layer; each adds its output for a prepared input to the residual stream."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BLD: jax.Array, token_BL: jax.Array, train: bool) -> tuple[jax.Array, routing.RoutingInfo]:
    config = self.config
    attended_BLD = SelfAttention(config, name='attention')(self._prepared(x_BLD, 'attention'))
    x_BLD = x_BLD + Dropout(config.dropout)(attended_BLD, train)
    control = controls.TABLE[config.control]
    y_BLD, info = self._tiles(control)(self._prepared(x_BLD, 'ffn'), token_BL)
    y_BLD = Dropout(config.dropout)(y_BLD, train)
    return (y_BLD if control.without == 'residual' else x_BLD + y_BLD), info

  def _tiles(self, control: controls.Control) -> nn.Module:
    config = self.config.ffn
    execute = control.execute or ffn.compute
    if not config.clusters:
      return ffn.TriXFFN(config, control.route or ffn.route_by_signatures, execute, name='ffn')
    return indexed_ffn.IndexedFFN(
      config,
      control.route or indexed_ffn.route_by_index,
      execute,
      normalise=control.without != 'norm',
      scale_outputs=control.without != 'output_scale',
      name='ffn',
    )

  def _prepared(self, x_BLD: jax.Array, name: str) -> jax.Array:
    x_BLD = norm(self.config, f'{name}_norm')(x_BLD)
    return ShortConvolution(name=f'{name}_convolution')(x_BLD) if self.config.form == 'modern' else x_BLD


def norm(config: ModelConfig, name: str | None = None) -> nn.Module:
  """Make the normalisation of the model's form, for the last axis."""
  return nn.RMSNorm(name=name) if config.form == 'modern' else nn.LayerNorm(name=name)


class TransformerLM(nn.Module):
  """Map tokens [B, L] int32, L <= context, to next-character logits [B, L, V] and a RoutingInfo for every layer."""

  config: ModelConfig
  vocabulary_size: int

  @nn.compact
  def __call__(self, token_BL: jax.Array, train: bool = False) -> tuple[jax.Array, list[routing.RoutingInfo]]:
    config, V = self.config, self.vocabulary_size
    L = token_BL.shape[1]
    if L > config.context:
      raise InputError(f'{L} tokens given to a model of context {config.context}; pass at most {config.context}')
    x_BLD = nn.Embed(V, config.d_model, embedding_init=nn.initializers.normal(0.02), name='embedding')(token_BL)
    if config.form == 'reference':
      x_BLD += self.param('positions', nn.initializers.normal(0.02), (config.context, config.d_model))[:L]
    x_BLD = Dropout(config.dropout)(x_BLD, train)
    infos = []
    for layer in range(config.layers):
      x_BLD, info = Block(config, name=f'layer_{layer}')(x_BLD, token_BL, train)
      infos.append(info)
    x_BLD = norm(config, 'final_norm')(x_BLD)
    head = nn.Dense(V, use_bias=config.form == 'reference', kernel_init=nn.initializers.normal(0.02), name='head')
    return head(x_BLD), infos


def make_model(settings, vocabulary: str) -> TransformerLM:
  """Make the language model of the `model` section of a config."""
  return TransformerLM(model_config(settings), len(vocabulary))


def init(model: TransformerLM, key: jax.Array) -> tuple[Any, Any]:
  """Draw parameters, and make the first state of the collection `routing`, `{}` for a model without."""
  params_key, routing_key = jax.random.split(key)
  token_BL = jnp.zeros((1, min(8, model.config.context)), jnp.int32)
  variables = model.init({'params': params_key, 'routing': routing_key}, token_BL)
  return variables['params'], variables.get('routing', {})


def apply(
  model: TransformerLM,
  params: Any,
  routing_state: Any,
  token_BL: jax.Array,
  *,
  train: bool = False,
  rngs: dict[str, jax.Array] | None = None,
) -> tuple[jax.Array, list[routing.RoutingInfo]]:
  """Compute logits [B, L, V] and every layer's RoutingInfo from parameters and the collection `routing` (or `{}`)."""
  result: Any = model.apply({'params': params, 'routing': routing_state or {}}, token_BL, train=train, rngs=rngs)
  return result


def count_parameters(params) -> int:
  """Return the number of scalars in a tree of parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def next_token_loss(logits_BLV: jax.Array, target_BL: jax.Array) -> jax.Array:
  """Return the cross-entropy of every target in nats, [B, L]."""
  log_probability_BLV = jax.nn.log_softmax(logits_BLV)
  return -jnp.take_along_axis(log_probability_BLV, target_BL[..., None], axis=-1)[..., 0]
