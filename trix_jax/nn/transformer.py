"""The language model, a pre-norm decoder whose feed-forward layers are ternary tiles, written once.

`apply_model` and `apply_block` compute it from parts. The Flax modules below make the parts from trained parameters,
and `inference.forward` from packed arrays and a cache.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from trix_jax.core import attention, layers, routing
from trix_jax.errors import InputError
from trix_jax.nn import controls, ffn, indexed_ffn
from trix_jax.nn.model_config import FFNConfig, ModelConfig


class LayerCache(NamedTuple):
  """One layer's cache of earlier tokens.

  Attributes:
    key_values: keys and values of all earlier tokens, for `BlockParts.attend`.
    attention_inputs_BWD, ffn_inputs_BWD: latest inputs of the short convolutions; None in models without them.
  """

  key_values: Any
  attention_inputs_BWD: jax.Array | None
  ffn_inputs_BWD: jax.Array | None


def _unchanged(x: jax.Array) -> jax.Array:
  return x


class ModelParts(NamedTuple):
  """What a model computes with, apart from its head.

  Attributes:
    vocabulary_size: V.
    embed: tokens [B, L] -> [B, L, D].
    embed_positions: () -> [..., L, D] of the tokens' positions; the `reference` form asks for it.
    apply_layer: (number of the layer, x_BLD, y_BLD, Tokens, its cache or None) -> as `apply_block`.
    normalise: (name, x_BLD, y_BLD) -> h_BLD, x + y normalised.
    drop_out: x -> x; inference leaves it out.
  """

  vocabulary_size: int
  embed: Callable[[jax.Array], jax.Array]
  embed_positions: Callable[[], jax.Array]
  apply_layer: Callable[[int, jax.Array, jax.Array | None, ffn.Tokens, LayerCache | None], 'AfterBlock']
  normalise: Callable[[str, jax.Array, jax.Array | None], jax.Array]
  drop_out: Callable[[jax.Array], jax.Array] = _unchanged


class BlockParts(NamedTuple):
  """What a block computes with.

  Attributes:
    prepare: (`attention` or `ffn`, x_BLD, y_BLD, inputs_BWD) -> x + y, h_BLD, latest inputs; see `prepare`.
    attend: (h_BLD, `LayerCache.key_values`) -> out_BLD, new key_values.
    project_out: out_BLD -> y_BLD.
    apply_tiles: h_BLD -> y_BLD, RoutingInfo.
    drop_out: x -> x; inference leaves it out.
    has_residual: whether the tiles' output is added to their block's input. Only an ablation replaces it.
  """

  prepare: Callable[[str, jax.Array, jax.Array | None, jax.Array | None], tuple[jax.Array, jax.Array, jax.Array | None]]
  attend: Callable[[jax.Array, Any], tuple[jax.Array, Any]]
  project_out: Callable[[jax.Array], jax.Array]
  apply_tiles: Callable[[jax.Array], tuple[jax.Array, routing.RoutingInfo]]
  drop_out: Callable[[jax.Array], jax.Array] = _unchanged
  has_residual: bool = True


class AfterBlock(NamedTuple):
  """What a block leaves: the residual stream as a sum x + y, which the next one adds up, and its cache."""

  x_BLD: jax.Array
  y_BLD: jax.Array | None
  info: routing.RoutingInfo
  cache: LayerCache | None


def apply_model(
  config: ModelConfig,
  parts: ModelParts,
  token_BL: jax.Array,
  caches: list[LayerCache] | None = None,
) -> tuple[jax.Array, list[routing.RoutingInfo], list[Any]]:
  """Compute hidden states [B, L, D] for the head, each layer's RoutingInfo of all B * L tokens, and new caches.

  Args:
    config, parts: of the model.
    token_BL: int32.
    caches: of earlier tokens, one for each layer; None for texts that begin at position 0.
  """
  x_BLD = parts.embed(token_BL)
  embedding_BLD = layers.normalise_rms(x_BLD) if config.ffn.address == 'token' else None
  tokens = ffn.Tokens(token_BL, parts.vocabulary_size, embedding_BLD)
  if config.form == 'reference':
    x_BLD += parts.embed_positions()
  x_BLD = parts.drop_out(x_BLD)
  y_BLD, infos, new_caches = None, [], []
  for layer in range(config.layers):
    x_BLD, y_BLD, info, cache = parts.apply_layer(
      layer, x_BLD, y_BLD, tokens, None if caches is None else caches[layer]
    )
    infos.append(info)
    new_caches.append(cache)
  return parts.normalise('final_norm', x_BLD, y_BLD), infos, new_caches


def apply_block(
  config: ModelConfig, parts: BlockParts, x_BLD: jax.Array, y_BLD: jax.Array | None, cache: LayerCache | None = None
) -> AfterBlock:
  """Compute a block on the new tokens of the stream x + y. The new cache is None without one."""
  before = cache or LayerCache(None, None, None)
  x_BLD, h_BLD, attention_inputs_BWD = parts.prepare('attention', x_BLD, y_BLD, before.attention_inputs_BWD)
  out_BLD, key_values = parts.attend(h_BLD, before.key_values)
  y_BLD = parts.drop_out(parts.project_out(out_BLD))
  x_BLD, h_BLD, ffn_inputs_BWD = parts.prepare('ffn', x_BLD, y_BLD, before.ffn_inputs_BWD)
  y_BLD, info = parts.apply_tiles(h_BLD)
  y_BLD = parts.drop_out(y_BLD)
  after = None if cache is None else LayerCache(key_values, attention_inputs_BWD, ffn_inputs_BWD)
  return AfterBlock(x_BLD, y_BLD, info, after) if parts.has_residual else AfterBlock(y_BLD, None, info, after)


def add(x: jax.Array, y: jax.Array | None) -> jax.Array:
  """Return x + y, or x without y."""
  return x if y is None else x + y


def prepare(
  config: ModelConfig,
  normalise: Callable[[jax.Array], jax.Array],
  convolve: Callable[[jax.Array], jax.Array],
  x_BLD: jax.Array,
  y_BLD: jax.Array | None,
  inputs_BWD: jax.Array | None = None,
  length_B: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Compute what attention or the tiles of a block read.

  Args:
    config: of the model.
    normalise: of the last axis.
    convolve: x_BPD -> x_BLD, see `layers.short_convolution`; the `modern` form asks for it.
    x_BLD, y_BLD: the stream is x + y.
    inputs_BWD: latest inputs of the convolution, None at the start of a text.
    length_B: valid new tokens of each row, where the latest inputs are wanted.

  Returns:
    x + y, the prepared tokens, and the latest inputs for tokens that follow the valid ones.
  """
  x_BLD = add(x_BLD, y_BLD)
  h_BLD = normalise(x_BLD)
  if config.form == 'reference':
    return x_BLD, h_BLD, None
  if inputs_BWD is None:
    padded_BPD = jnp.pad(h_BLD, ((0, 0), (layers.CONVOLUTION_WIDTH - 1, 0), (0, 0)))
  else:
    padded_BPD = jnp.concatenate([inputs_BWD, h_BLD], axis=1)
  latest_BWD = None if length_B is None else layers.last_inputs(padded_BPD, length_B)
  return x_BLD, convolve(padded_BPD), latest_BWD


def turn_heads(
  config: ModelConfig, q_BLHW: jax.Array, k_BLHW: jax.Array, position_BL: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Normalise and rotate queries and keys, in the `modern` form; positions are 0 ... L - 1 by default."""
  if config.form == 'reference':
    return q_BLHW, k_BLHW
  where = () if position_BL is None else (position_BL, config.context)
  q_BLHW, k_BLHW = (attention.rotary(layers.normalise_rms(x_BLHW), *where) for x_BLHW in (q_BLHW, k_BLHW))
  return q_BLHW, k_BLHW


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
      dot_general=_as_dot_general(layers.project_ternary if self.config.projections == 'ternary' else layers.project),
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


def _as_dot_general(project: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., jax.Array]:
  """Return a product for `nn.Dense`, which names axes that are always the same here."""
  return lambda x, kernel, *_, **__: project(x, kernel)


class Dropout(nn.Module):
  """Apply `layers.dropout` in training, with a key from the RNG stream `dropout`; otherwise do nothing."""

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return layers.dropout(x, self.rate, self.make_rng('dropout')) if train and self.rate else x


class ShortConvolution(nn.Module):
  """Apply `layers.short_convolution` with learned taps, zero at first: [B, W - 1 + L, D] -> [B, L, D]."""

  @nn.compact
  def __call__(self, x_BPD: jax.Array) -> jax.Array:
    taps_WD = self.param('taps', nn.initializers.zeros, (layers.CONVOLUTION_WIDTH, x_BPD.shape[-1]))
    return layers.short_convolution(x_BPD, taps_WD)


class Block(nn.Module):
  """Apply `apply_block` with trained parameters."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BLD: jax.Array, y_BLD: jax.Array | None, tokens: ffn.Tokens, train: bool) -> AfterBlock:
    config = self.config
    control = controls.find(config.control)
    projections = SelfAttention(config, name='attention')

    def attend(h_BLD, _):
      q_BLHW, k_BLHW, v_BLHW = projections.project_heads(h_BLD)
      out_BLHW = attention.causal_attention(*turn_heads(config, q_BLHW, k_BLHW), v_BLHW)
      return out_BLHW.reshape(h_BLD.shape), None

    def prepare_part(part, x_BLD, y_BLD, _):
      convolve = ShortConvolution(name=f'{part}_convolution') if config.form == 'modern' else _unchanged
      return prepare(config, norm(config, f'{part}_norm'), convolve, x_BLD, y_BLD)

    parts = BlockParts(
      prepare=prepare_part,
      attend=attend,
      project_out=projections.project_out,
      apply_tiles=lambda h_BLD: make_tiles(config.ffn, control)(h_BLD, tokens),
      drop_out=lambda x_BLD: Dropout(config.dropout)(x_BLD, train),
      has_residual=control.without != 'residual',
    )
    return apply_block(config, parts, x_BLD, y_BLD)


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


def make_head(config: ModelConfig, vocabulary_size: int) -> nn.Dense:
  """Make the output head."""
  return nn.Dense(
    vocabulary_size,
    use_bias=config.form == 'reference',
    kernel_init=nn.initializers.normal(0.02),
    dot_general=_as_dot_general(layers.project_ternary) if config.projections == 'ternary' else None,
    name='head',
  )


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
    parts = ModelParts(
      vocabulary_size=V,
      embed=nn.Embed(V, config.d_model, embedding_init=nn.initializers.normal(0.02), name='embedding'),
      embed_positions=lambda: self.param('positions', nn.initializers.normal(0.02), (config.context, config.d_model))[
        :L
      ],
      apply_layer=lambda layer, x_BLD, y_BLD, tokens, _: Block(config, name=f'layer_{layer}')(
        x_BLD, y_BLD, tokens, train
      ),
      normalise=lambda name, x_BLD, y_BLD: norm(config, name)(add(x_BLD, y_BLD)),
      drop_out=lambda x_BLD: Dropout(config.dropout)(x_BLD, train),
    )
    x_BLD, infos, _ = apply_model(config, parts, token_BL)
    return make_head(config, V)(x_BLD), infos


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
