"""Tiles that name themselves: a loss by which the signatures of new tiles win the tokens of their own text.

A new tile trains alone in a host, with every token. Nothing in that teaches its signature to say yes. The loss makes
the signature score above the host's signatures on the new text. It also keeps the score below theirs on text that the
host writes, so the host's own text is not needed. It compares running means of scores over the text so far, because a
text is easier to tell by many tokens than by one. The idea of such proxies is that of Expert-Router Coupling
(arXiv 2512.23447); there are no router and no proxies from rows of a router here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trix_jax import inference
from trix_jax.core import routing, signatures
from trix_jax.editing import grafting
from trix_jax.inference import language_model
from trix_jax.nn import ffn, router, transformer
from trix_jax.nn.model_config import ModelConfig
from trix_jax.runs import checkpoints

# Windows that the host writes, and the weight of its text in the loss, where that of the new text is 1.
WINDOWS, HOST_WEIGHT = 32, 4.0
# A lead of more nats than this hardly lowers the loss.
TEMPERATURE = 1 / 8


class HostLayer(NamedTuple):
  """What the loss of a layer knows of the host.

  Attributes:
    key_TD, scale_T: the signatures of the host's tiles.
    written: what the layer's signatures score in text that the host wrote, of N tokens.
    best_N: what `score_best` is for the host's signatures there; XLA would take long to compute constants.
  """

  key_TD: jax.Array
  scale_T: jax.Array
  written: router.Asked
  best_N: jax.Array


def load_host(trained: checkpoints.Trained, seed: int) -> list[HostLayer]:
  """Read the signatures of a host and let it write. Raise InputError for one into which no tiles can be grafted."""
  config = trained.config.model
  grafting.require_host(config)
  token_BL = write(trained, seed)
  _, _, asked = apply(trained.model, trained.params, trained.routing_state, token_BL)
  layers = []
  for layer, written in enumerate(asked):
    tiles = ffn.quantise_tiles(trained.params[f'layer_{layer}']['ffn'], config.ffn)
    keys = tiles.signatures_TD, tiles.signature_scale_T
    layers.append(HostLayer(*keys, written, score_best(*keys, written, config)))
  return layers


def write(trained: checkpoints.Trained, seed: int) -> np.ndarray:
  """Draw windows [B, L] of text from a model, each after half a window that begins with any token."""
  model = inference.as_trained(trained.model, trained.vocabulary, trained.params, trained.routing_state)
  context = trained.config.model.context
  first_B = np.random.default_rng(seed).integers(0, len(trained.vocabulary), WINDOWS)
  rows = [np.array([token], np.int32) for token in first_B]
  drawn = language_model.draw_tokens(model, rows, context + context // 2, temperature=1.0, top_k=0, seed=seed)
  return np.concatenate(list(drawn), axis=1)[:, context // 2 :][:, :context]


def apply(
  model: transformer.TransformerLM, params: Any, routing_state: Any, token_BL: jax.Array | np.ndarray, **settings: Any
) -> tuple[jax.Array, list[routing.RoutingInfo], list[router.Asked]]:
  """Call `transformer.apply`, and return what each layer's signatures score too."""
  variables = {'params': params, 'routing': routing_state or {}}
  (logits, infos), kept = model.apply(variables, token_BL, mutable=['asked'], **settings)
  return logits, infos, [kept['asked'][f'layer_{layer}']['ffn']['asked'][0] for layer in range(model.config.layers)]


def naming_loss(signature_TD: jax.Array, asked: router.Asked, host: HostLayer, config: ModelConfig) -> jax.Array:
  """Return how far new text and the host's are from being told apart by the best signature of each side, in nats.

  It is the cross-entropy of that choice with logits divided by `TEMPERATURE`, times `TEMPERATURE`. The gradient passes
  into the signatures alone, so the loss does not change what they are asked.

  Args:
    signature_TD: of the new tiles; see `signatures.read_signatures` for their gradient.
    asked: by tokens of the new text, windows of a context one after the other.
    host: of the same layer.
    config: of the model with the new tiles.
  """
  scale_T = signatures.scale_of(signature_TD, config.ffn.signature)
  lead_N = score_best(signature_TD, scale_T, asked, config) - score_best(host.key_TD, host.scale_T, asked, config)
  over_N = score_best(signature_TD, scale_T, host.written, config) - host.best_N

  def miss(over_N):
    return TEMPERATURE * jnp.mean(jax.nn.softplus(over_N / TEMPERATURE))

  return miss(-lead_N) + HOST_WEIGHT * miss(over_N)


def score_best(key_TD: jax.Array, scale_T: jax.Array, asked: router.Asked, config: ModelConfig) -> jax.Array:
  """Return the best of some tiles for every token [N]: the largest mean of its logits over the window so far."""
  _, q_ND, step_N1 = jax.lax.stop_gradient(asked)
  score_NT = routing.signature_dots(q_ND, key_TD) * scale_T
  return jnp.max(mean_so_far(router.scale_scores(score_NT, step_N1, config.ffn), config.context), axis=-1)


def mean_so_far(score_NT: jax.Array, length: int) -> jax.Array:
  """Return the running means of scores over texts of `length` tokens, one text after the other."""
  score_BLT = score_NT.reshape(-1, length, score_NT.shape[-1])
  return (jnp.cumsum(score_BLT, axis=1) / jnp.arange(1, length + 1)[:, None]).reshape(score_NT.shape)
