"""The language model as Flax modules: a decoder whose feed-forward layers are ternary tiles."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from trix_jax.core import attention, routing
from trix_jax.errors import InputError
from trix_jax.nn import controls, decoder, ffn, indexed_ffn
from trix_jax.nn.model_config import FFNConfig, ModelConfig


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


class SelfAttention(nn.Module):
  """The projections around causal multi-head self-attention."""

  config: ModelConfig

  def setup(self):
    self.query, self.key, self.value, self.out = (self._dense() for _ in range(4))

  def _dense(self) -> nn.Dense:
    D = self.config.d_model
    return nn.Dense(
      D,
      use_bias=self.config.form == 'reference',
      kernel_init=nn.initializers.normal(D**-0.5),
      dot_general=lambda x_BLD, kernel_DE, *_, **__: project(x_BLD, kernel_DE),
    )

  def project_heads(self, x_BLD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return queries, keys and values, [B, L, heads, W] each."""
    q, k, v = (
      dense(x_BLD).reshape(*x_BLD.shape[:2], self.config.heads, -1) for dense in (self.query, self.key, self.value)
    )
    return q, k, v

  def project_out(self, out_BLD: jax.Array) -> jax.Array:
    """Mix the heads' outputs."""
    mixed_BLD: jax.Array = self.out(out_BLD)
    return mixed_BLD


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


class ShortConvolution(nn.Module):
  """Apply `decoder.short_convolution` with learned taps, zero at first: [B, W - 1 + L, D] -> [B, L, D]."""

  @nn.compact
  def __call__(self, x_BPD: jax.Array) -> jax.Array:
    taps_WD = self.param('taps', nn.initializers.zeros, (decoder.CONVOLUTION_WIDTH, x_BPD.shape[-1]))
    return decoder.short_convolution(x_BPD, taps_WD)


class Block(nn.Module):
  """Apply `decoder.apply_block` with trained parameters."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BLD: jax.Array, token_BL: jax.Array, train: bool) -> tuple[jax.Array, routing.RoutingInfo]:
    config = self.config
    control = controls.TABLE[config.control]
    projections = SelfAttention(config, name='attention')
    parts = decoder.BlockParts(
      normalise=lambda name, x_BLD: norm(config, name)(x_BLD),
      convolve=lambda name, x_BPD: ShortConvolution(name=name)(x_BPD),
      project_heads=projections.project_heads,
      attend=lambda q_BLHW, k_BLHW, v_BLHW, _: (attention.causal_attention(q_BLHW, k_BLHW, v_BLHW), None),
      project_out=projections.project_out,
      apply_tiles=lambda x_BLD: make_tiles(config.ffn, control)(x_BLD, token_BL),
      drop_out=lambda x_BLD: Dropout(config.dropout)(x_BLD, train),
      has_residual=control.without != 'residual',
    )
    x_BLD, info, _ = decoder.apply_block(config, parts, x_BLD)
    return x_BLD, info


def make_tiles(config: FFNConfig, control: controls.Control) -> nn.Module:
  """Make the feed-forward layer of a block, with what a control replaces."""
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
    parts = decoder.ModelParts(
      embed=nn.Embed(V, config.d_model, embedding_init=nn.initializers.normal(0.02), name='embedding'),
      embed_positions=lambda _: self.param('positions', nn.initializers.normal(0.02), (config.context, config.d_model))[
        :L
      ],
      apply_layer=lambda layer, x_BLD, _: (*Block(config, name=f'layer_{layer}')(x_BLD, token_BL, train), None),
      normalise=lambda name, x_BLD: norm(config, name)(x_BLD),
      drop_out=lambda x_BLD: Dropout(config.dropout)(x_BLD, train),
    )
    x_BLD, infos, _ = decoder.apply_model(config, parts, token_BL)
    head = nn.Dense(V, use_bias=config.form == 'reference', kernel_init=nn.initializers.normal(0.02), name='head')
    return head(x_BLD), infos


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
