"""Evaluate on a whole split: predict every character once, in non-overlapping windows of the context length."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from trix_jax.core import routing
from trix_jax.data import corpora
from trix_jax.evaluation import classes
from trix_jax.inference import forward, unpacking, weights
from trix_jax.nn import controls, ffn, transformer
from trix_jax.nn.model_config import NO_CONTROL, ModelConfig
from trix_jax.system import devices

WINDOWS_AT_A_TIME = 32


def convert_loss(loss: float) -> dict[str, float]:
  """Return a loss in nats a character, and as perplexity and bits."""
  return {'loss': loss, 'perplexity': math.exp(min(loss, 700.0)), 'bits_per_char': loss / math.log(2)}


def change_routing(config: ModelConfig, routing_name: str) -> ModelConfig:
  """Return the same model under another routing.

  A balance bias or a control belongs to the trained routing, so another routing drops it. An ablation stays, because it
  changes the layer itself.
  """
  if routing_name == config.ffn.routing:
    return config
  return dataclasses.replace(
    config,
    ffn=dataclasses.replace(config.ffn, routing=routing_name, balance_bias=False),
    control=config.control if config.control in controls.ABLATIONS else NO_CONTROL,
  )


class Backend(NamedTuple):
  """A way to compute a model.

  Attributes:
    name: `xla` or `packed`.
    apply: (parameters, routing state, tokens [B, L], key for random routing) -> logits, a RoutingInfo for every layer.
    tiles: (parameters, layer) -> the layer's tiles.
  """

  name: str
  apply: Callable[..., tuple[jax.Array, list[routing.RoutingInfo]]]
  tiles: Callable[[Any, int], ffn.TernaryTiles]


def make_trained_backend(config: ModelConfig, vocabulary_size: int) -> Backend:
  """Return the backend that computes the model by XLA, as in training, from `transformer.TransformerLM` parameters."""
  model = transformer.TransformerLM(config, vocabulary_size)

  def apply(params, routing_state, token_BL, key):
    return transformer.apply(model, params, routing_state, token_BL, rngs={'routing': key})

  return Backend('xla', apply, lambda params, layer: ffn.quantise_tiles(params[f'layer_{layer}']['ffn'], config.ffn))


def make_packed_backend(config: weights.InferenceConfig, computation: forward.Computation = forward.PACKED) -> Backend:
  """Return the backend that computes the packed model by kernels, from the arrays of `weights.pack`.

  Those arrays hold all state.
  """

  def apply(arrays, _, token_BL, key):
    return forward.whole_text(computation, config, arrays, token_BL, key)

  return Backend(
    'packed', apply, lambda arrays, layer: unpacking.unpack_tiles(arrays, f'layer_{layer}.ffn', config.model.ffn)
  )


class Evaluator:
  """Evaluate parameters of one model on one split; compiled once.

  Random routing draws the same tiles each time. The draw changes with the number of devices.
  """

  def __init__(self, config: ModelConfig, vocabulary: str, tokens: np.ndarray, backend: Backend | None = None):
    """Prepare the evaluation.

    Args:
      config: of the model.
      vocabulary: of the model.
      tokens: a split; its first token is an input only.
      backend: computes the model; by default `make_trained_backend`.
    """
    self._ffn = config.ffn
    self._backend = backend or make_trained_backend(config, len(vocabulary))
    self._windows, self._targets = corpora.cut_windows(tokens, config.context)
    self._mesh = devices.data_mesh(WINDOWS_AT_A_TIME)
    self._class_V = classes.class_of_tokens(vocabulary)
    split, replicated = PartitionSpec(devices.AXIS), PartitionSpec()
    self._step = jax.jit(
      jax.shard_map(
        self._sums,
        mesh=self._mesh,
        in_specs=(replicated, replicated, split, split, replicated),
        out_specs=replicated,
        check_vma=False,
      )
    )

  def __call__(self, params: Any, routing_state: Any = None) -> dict[str, Any]:
    """Measure the figures of the whole split.

    Returns:
      loss (mean cross-entropy in nats), perplexity, bits_per_char. Lists over layers: tile_load; dead_tiles (tiles that
      are silent or that no token reached); class_tiles (counts `[class][tile]`, classes of the input character);
      class_tile_information (normalised mutual information); and the figures of `routing.statistics`.
    """
    params, routing_state = devices.replicate((params, routing_state or {}), self._mesh)
    total: Any = None
    for start, part in corpora.batches(WINDOWS_AT_A_TIME, self._windows, self._targets):
      sums = self._step(params, routing_state, *part, start)
      sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), sums)
      total = sums if total is None else jax.tree.map(np.add, total, sums)
    count = total.pop('targets')
    class_tiles = total.pop('class_tiles')
    mean = jax.tree.map(lambda leaf: (leaf / count).tolist(), total)
    load = np.array(mean['tile_load'])
    silent = [ffn.find_silent_tiles(self._backend.tiles(params, layer), self._ffn) for layer in range(len(load))]
    return {
      **convert_loss(mean.pop('loss')),
      **mean,
      'dead_tiles': [int(np.sum(np.asarray(quiet) | (used == 0))) for quiet, used in zip(silent, load, strict=True)],
      'class_tiles': np.rint(class_tiles).astype(int).tolist(),
      'class_tile_information': [classes.normalised_mutual_information(counts) for counts in class_tiles],
    }

  def _sums(self, params, routing_state, windows, targets, batch):
    """Sum over the true targets of one batch, with per-layer figures stacked over layers."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), batch), jax.lax.axis_index(devices.AXIS))
    logits, infos = self._backend.apply(params, routing_state, windows[:, :-1], key)
    loss_BL = transformer.next_token_loss(logits, windows[:, 1:])
    weight_N = (jnp.arange(loss_BL.shape[1]) < targets[:, None]).astype(jnp.float32).reshape(-1)
    count = weight_N.sum()
    class_N = jnp.asarray(self._class_V)[windows[:, :-1].reshape(-1)]

    def of_layer(info):
      # A batch that holds only padding has no mean; its weight is 0.
      means = routing.statistics(info, weight_N + (count == 0))
      class_tiles_CT = jnp.zeros((len(classes.CLASSES), self._ffn.tiles))
      return {
        **jax.tree.map(lambda leaf: leaf * count, means),
        'class_tiles': class_tiles_CT.at[class_N[:, None], info.tile_NK].add(weight_N[:, None]),
      }

    layers = [of_layer(info) for info in infos]
    sums = {
      'loss': loss_BL.reshape(-1) @ weight_N,
      'targets': count,
      **jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers),
    }
    return jax.lax.psum(sums, devices.AXIS)


def list_routings(config: ModelConfig) -> tuple[str, ...]:
  """List the routings for evaluating a checkpoint: all of them, but those with a gate only where the model has one."""
  return tuple(name for name, way in routing.ROUTINGS.items() if not way.has_gate or name == config.ffn.routing)


def evaluate_routings(
  config: ModelConfig, vocabulary: str, tokens: np.ndarray, params: Any, routing_state: Any = None
) -> list[dict[str, Any]]:
  """Return one row for each routing: `routing`, `backend` and the figures of `Evaluator`."""
  rows = []
  for name in list_routings(config):
    evaluated = change_routing(config, name)
    rows.append({'routing': name, 'backend': 'xla', **Evaluator(evaluated, vocabulary, tokens)(params, routing_state)})
  return rows


def evaluate_packed(
  xla_rows: list[dict[str, Any]],
  config: weights.InferenceConfig,
  vocabulary: str,
  tokens: np.ndarray,
  params: Any,
  routing_state: Any = None,
) -> list[dict[str, Any]]:
  """Return rows of the packed model like those of `evaluate_routings`, without random routing.

  Each row also holds its distance from the XLA row. `attention` and `head` are precisions. `loss_difference` is packed
  minus XLA, in nats. `tile_disagreement` is, for each layer, the share of tokens whose tiles differ.
  """
  packed_as_trained = weights.pack(params, routing_state, config)
  rows = []
  for xla_row in xla_rows:
    if routing.ROUTINGS[
      xla_row['routing']
    ].is_random:  # The two backends draw different tiles, so their rows cannot be compared.
      continue
    model = change_routing(config.model, xla_row['routing'])
    config_of_row = dataclasses.replace(config, model=model)
    arrays = packed_as_trained
    # Another routing may need more arrays. A table of addresses is for one routing that scores.
    has_own_table = model.ffn.has_fixed_addresses and model != config.model
    if has_own_table or weights.layout(config_of_row).keys() - arrays.keys():
      arrays = {**arrays, **weights.pack(params, routing_state, config_of_row)}
    packed = make_packed_backend(config_of_row)
    row = Evaluator(model, vocabulary, tokens, packed)(arrays)
    trained = make_trained_backend(model, len(vocabulary))
    rows.append(
      {
        'routing': xla_row['routing'],
        'backend': 'packed',
        'attention': config.attention,
        'head': config.head,
        **row,
        'loss_difference': row['loss'] - xla_row['loss'],
        'tile_disagreement': tile_disagreement(
          model.context, tokens, (packed, arrays, {}), (trained, params, routing_state)
        ),
      }
    )
  return rows


def tile_disagreement(context: int, tokens: np.ndarray, *models: tuple[Backend, Any, Any]) -> list[float]:
  """Return, for each layer, the share of tokens whose tiles differ between two models, in any order.

  Args:
    context: of the models.
    tokens: a split; its first token is an input only.
    models: two of (backend, parameters, routing state).
  """
  backends = [backend for backend, _, _ in models]

  @jax.jit
  def differing(parameters, windows, targets):
    key = jax.random.key(0)
    first, second = (
      [jnp.sort(info.tile_NK) for info in backend.apply(*of_model, windows[:, :-1], key)[1]]
      for backend, of_model in zip(backends, parameters, strict=True)
    )
    counted_N = (jnp.arange(context) < targets[:, None]).reshape(-1)
    return jnp.stack([jnp.sum(jnp.any(a != b, axis=1) & counted_N) for a, b in zip(first, second, strict=True)])

  windows, targets = corpora.cut_windows(tokens, context)
  parameters = [of_model for _, *of_model in models]
  counts = sum(
    np.asarray(differing(parameters, *part), np.int64)
    for _, part in corpora.batches(WINDOWS_AT_A_TIME, windows, targets)
  )
  shares: list[float] = (counts / targets.sum()).tolist()
  return shares


def record_tiles(
  model: transformer.TransformerLM, params: Any, routing_state: Any, token_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Return tiles and gates of every token in every layer, two arrays [layers, N, K], without a partial last window."""
  context = model.config.context
  windows = token_N[: len(token_N) // context * context].reshape(-1, context)

  @jax.jit
  def chosen(params, routing_state, windows):
    infos = transformer.apply(model, params, routing_state, windows, rngs={'routing': jax.random.key(0)})[1]
    return jnp.stack([info.tile_NK for info in infos]), jnp.stack([info.gate_NK for info in infos])

  parts = [
    [np.asarray(of) for of in chosen(params, routing_state, *part)]
    for _, part in corpora.batches(WINDOWS_AT_A_TIME, windows)
  ]
  tile_YNK, gate_YNK = (np.concatenate(of, axis=1)[:, : windows.size] for of in zip(*parts, strict=True))
  return tile_YNK, gate_YNK
