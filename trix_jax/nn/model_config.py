"""The settings of the language model and of its feed-forward layers, with their defaults."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trix_jax.core import routing, signatures, ternary
from trix_jax.core.routing import Routing
from trix_jax.settings import (
  Check,
  Relation,
  at_least_1,
  choice_of,
  names_that_may_differ,
  require,
  setting,
  values_before,
)

FORMS = ('reference', 'modern')
ACTIVATIONS = {'relu': jax.nn.relu, 'relu_squared': lambda x: jnp.square(jax.nn.relu(x))}
# The control of a model that is for more than experiments; see `controls.TABLE`.
NO_CONTROL = 'none'
CLUSTER_BIASES = ('own', 'mean', 'max')
PROJECTIONS = ('float', 'ternary')


@dataclasses.dataclass(frozen=True)
class FFNConfig:
  """A feed-forward layer of T = `tiles` tiles with H = d_ff / T hidden units each.

  Attributes:
    d_model: D, input and output width.
    d_ff: hidden units of all tiles together.
    tiles: T.
    top_k: K, tiles that a token computes.
    routing: how the layer chooses tiles, one of `routing.ROUTINGS`.
    signature: kind of signature that emergent routing reads, `sign` or `votes`.
    address: what the tiles' keys score, one of `routing.ADDRESSES`. The tiles compute on the stream under either.
    gate: factor of a chosen tile's output, one of `routing.GATES`; all but `one_hot` need scores under any routing.
    quantiser: `absmean` or `threshold`.
    int8_activations: quantise inputs and hidden activations to int8.
    activation: one of `ACTIVATIONS`.
    shared_down_scale: one output scale for all tiles (the reference) instead of one for each.
    balance_bias: add the selection bias kept in the `routing` collection.
    keep_ratio: a token drops those of its `top_k` tiles whose probability is below this part of its first tile's.
    clusters: C > 0 makes the layer an `IndexedFFN`, which finds tiles through an index of C clusters.
    probes: P, clusters that a token probes.
    cluster_bias: with `balance_bias`, what a cluster's score carries: its `own` bias, which the load of the clusters
      moves, or the `mean` or the `max` of its tiles' biases.
  """

  d_model: int = 128
  d_ff: int = 512
  tiles: int = 4
  top_k: int = setting(1, may_differ=True)
  routing: str = setting('emergent', may_differ=True)
  signature: str = 'votes'
  address: str = setting('stream', before='stream', may_differ=True)
  gate: str = setting('probability', may_differ=True)
  quantiser: str = 'absmean'
  int8_activations: bool = True
  activation: str = 'relu_squared'
  shared_down_scale: bool = False
  balance_bias: bool = setting(False, may_differ=True)
  keep_ratio: float = setting(0.0, before=0.0, may_differ=True)
  clusters: int = setting(0, before=0)
  probes: int = setting(1, before=1, may_differ=True)
  cluster_bias: str = setting('own', before='own', may_differ=True)

  def __post_init__(self):
    require(self, 'model.', _FFN_CHECKS)

  @property
  def way(self) -> Routing:
    """Return the entry of `routing.ROUTINGS`."""
    return routing.ROUTINGS[self.routing]

  @property
  def has_fixed_addresses(self) -> bool:
    """Return whether every token has the same tiles and gates in all contexts, so that a table can hold them."""
    return self.address == 'token' and self.way.by_scores

  @property
  def hidden(self) -> int:
    """Return H, the hidden units of one tile."""
    return self.d_ff // self.tiles

  @property
  def keep_margin(self) -> float:
    """Return `keep_ratio` as a difference of scores times the activations' step."""
    return math.inf if not self.keep_ratio else -math.log(self.keep_ratio) * math.sqrt(self.d_model)


_FFN_CHECKS = (
  choice_of('routing', among=routing.ROUTINGS),
  choice_of('signature', among=signatures.KINDS),
  choice_of('address', among=routing.ADDRESSES),
  choice_of('gate', among=routing.GATES),
  choice_of('quantiser', among=ternary.QUANTISERS),
  choice_of('activation', among=ACTIVATIONS),
  choice_of('cluster_bias', among=CLUSTER_BIASES),
  at_least_1('d_model'),
  Relation(
    lambda c: c.tiles >= 1 and c.d_ff >= 1 and c.d_ff % c.tiles == 0,
    'model.tiles = {c.tiles} does not divide model.d_ff = {c.d_ff}; choose a positive number of tiles that does',
  ),
  Relation(
    lambda c: 1 <= c.top_k <= c.tiles,
    'model.top_k = {c.top_k}; choose a number from 1 to model.tiles = {c.tiles}',
  ),
  Check(('keep_ratio',), lambda ratio: 0 <= ratio <= 1, 'it must be from 0, keep all of top_k, to 1'),
  Relation(
    lambda c: c.clusters >= 0 and (not c.clusters or c.tiles % c.clusters == 0),
    'model.clusters = {c.clusters} does not divide model.tiles = {c.tiles}; choose a number that does, near its square '
    'root, or 0 for no index',
  ),
  Relation(
    lambda c: 1 <= c.probes <= max(1, c.clusters),
    'model.probes = {c.probes} of model.clusters = {c.clusters}; choose a number from 1 to that of clusters, or 1 '
    'without an index',
  ),
  Relation(
    lambda c: not c.clusters or c.top_k <= c.probes * (c.tiles // c.clusters),
    'model.top_k = {c.top_k} of {c.probes} probed cluster(s) with {c.tiles} / {c.clusters} tiles each; choose fewer, '
    'or more model.probes',
  ),
  Relation(
    lambda c: not (c.clusters and c.way.has_gate),
    'model.routing = {c.routing} with model.clusters; a gate scores all tiles, so set model.clusters=0',
  ),
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The language model.

  Attributes:
    form: `reference` has learned positions, LayerNorm and biases everywhere outside the tiles, as the original.
      `modern` has rotary positions, RMSNorm, normalised queries and keys, short convolutions, and no biases.
    layers, d_model, heads, context: the usual sizes; context is in characters.
    projections: weights of attention's four projections and of the head, one of `PROJECTIONS`. Ternary ones are
      absmean codes with a scale a matrix, and their inputs are int8.
    dropout: on the embedding and on both residual branches, in training only; rounded to multiples of 1/256.
    ffn: the feed-forward layers.
    control: what the layers replace for an experiment, one of `controls.TABLE`.
  """

  form: str = 'modern'
  layers: int = 4
  d_model: int = FFNConfig.d_model
  heads: int = 4
  context: int = 256
  projections: str = setting('float', before='float')
  dropout: float = setting(0.1, may_differ=True)
  ffn: FFNConfig = FFNConfig()
  control: str = setting(NO_CONTROL, before=NO_CONTROL, may_differ=True)

  def __post_init__(self):
    require(self, 'model.', _MODEL_CHECKS)

  @property
  def head_width(self) -> int:
    """Return W, the width of one head of attention."""
    return self.d_model // self.heads


_MODEL_CHECKS = (
  choice_of('form', among=FORMS),
  choice_of('projections', among=PROJECTIONS),
  at_least_1('layers', 'd_model', 'heads', 'context'),
  Relation(
    lambda c: c.ffn.d_model == c.d_model,
    'the layers have d_model = {c.ffn.d_model} in a model of d_model = {c.d_model}; give ffn=FFNConfig(d_model='
    '{c.d_model}, ...)',
  ),
  Relation(lambda c: c.d_model % c.heads == 0, 'model.heads = {c.heads} does not divide model.d_model = {c.d_model}'),
  Relation(
    lambda c: c.form != 'modern' or c.head_width % 2 == 0,
    'rotary positions take an even width of a head, not d_model / heads = {c.d_model} / {c.heads} = {c.head_width}',
  ),
  Check(('dropout',), lambda rate: 0 <= rate < 1, 'it must be at least 0 and less than 1'),
)


def flatten_model(config: ModelConfig) -> dict[str, Any]:
  """Return the `model` section of a config: the fields of both dataclasses, which share `d_model`."""
  settings = dataclasses.asdict(config)
  return {**settings.pop('ffn'), **settings}


def parse_model(settings: Mapping[str, Any]) -> ModelConfig:
  """Make a `ModelConfig` from a `model` section. Raise InputError for settings that make no model."""
  names = {field.name for field in dataclasses.fields(FFNConfig)}
  own_names = {field.name for field in dataclasses.fields(ModelConfig)} - {'ffn'}
  return ModelConfig(
    **{name: value for name, value in settings.items() if name in own_names},
    ffn=FFNConfig(**{name: value for name, value in settings.items() if name in names}),
  )


def model_values_before() -> dict[str, Any]:
  """Return the later settings of the `model` section, each with what files without it meant."""
  return values_before(FFNConfig) | values_before(ModelConfig)


# Settings that do not change the meaning of a model's parameters: they concern routing and training only.
MAY_DIFFER = names_that_may_differ(FFNConfig) + names_that_may_differ(ModelConfig)
