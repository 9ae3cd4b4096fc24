"""Run a trained model with other outputs of one layer's tiles, token by token, exactly.

A change at a token reaches the loss of that token's next character, and all later tokens. Here each token is changed
alone: it sees every earlier token unchanged, so that the loss of its own next character is exact, in any layer.

Two streams run side by side, as in XLNet (arXiv 1906.08237). In the first nothing is changed. In the second every token
is changed as if it were the only one, and reads the earlier tokens from the first.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trix_jax.core import attention, layers, routing
from trix_jax.data import corpora
from trix_jax.nn import controls, ffn, transformer
from trix_jax.runs import checkpoints

TOKENS_AT_A_TIME = 1024
# Windows of the validation split that are measured, at least, spread over all of it.
WINDOWS = 144


class AtWork(NamedTuple):
  """A layer of tiles on some text.

  Attributes:
    x_ND: its input.
    y_ND: its output, as trained.
    info: its routing.
    tiles: its tiles.
    token_N: the characters.
  """

  x_ND: jax.Array
  y_ND: jax.Array
  info: routing.RoutingInfo
  tiles: ffn.TernaryTiles
  token_N: jax.Array


# Other outputs of a layer: (the layer at work, what was given for these windows) -> [S, N, D].
Outputs = Callable[[AtWork, Any], jax.Array]
# Anything else to keep of a layer at work: a tree of arrays with tokens first.
Keep = Callable[[AtWork], Any]


def run(
  trained: checkpoints.Trained,
  layer: int,
  window_BL: np.ndarray,
  outputs: Outputs,
  keep: Keep = lambda _: (),
  given: Any = (),
  together: bool = False,
) -> tuple[np.ndarray, np.ndarray, Any]:
  """Return the loss of every next character, with the layer's own outputs and with others in their place.

  Args:
    trained: the model.
    layer: the layer whose outputs change.
    window_BL: windows of a context and one character.
    outputs: the other outputs.
    keep: what to return of the layer at work.
    given: a tree of arrays with windows first, for `outputs`.
    together: change all tokens at once, so that a token also sees the changes of those before it.

  Returns:
    Losses as trained [N], losses with the other outputs [S, N], and what was kept.
  """
  step = jax.jit(functools.partial(_step, trained.model, layer, outputs, keep, together))
  state, parts = trained.routing_state or {}, []
  flat, tree = jax.tree.flatten(given)
  size = max(1, TOKENS_AT_A_TIME // (window_BL.shape[1] - 1))
  for start, (windows, *arrays) in corpora.batches(size, window_BL, *flat):
    valid = min(size, len(window_BL) - start)
    found = step(trained.params, state, windows, jax.tree.unflatten(tree, arrays))
    count = valid * (windows.shape[1] - 1)
    loss_SN, kept = jax.tree.map(np.asarray, found)
    parts.append((loss_SN[:, :count], jax.tree.map(lambda of, count=count: of[:count], kept)))
  loss_SN = np.concatenate([loss for loss, _ in parts], axis=1).astype(np.float64)
  return loss_SN[0], loss_SN[1:], jax.tree.map(lambda *of: np.concatenate(of), *(kept for _, kept in parts))


def look(trained: checkpoints.Trained, layer: int, window_BL: np.ndarray, keep: Keep) -> Any:
  """Return what is kept of a layer at work, with no output changed."""
  return run(trained, layer, window_BL, lambda at_work, _: at_work.y_ND[None][:0], keep)[2]


def _step(model, layer, outputs, keep, together, params, state, window_BL, given):
  config, control = model.config, controls.find(model.config.control)
  B, L = window_BL.shape[0], window_BL.shape[1] - 1
  kept = []

  def apply_layer(number, x_BLD, y_BLD, tokens, _):
    of_layer, own_state = params[f'layer_{number}'], state.get(f'layer_{number}', {}).get('ffn', {})
    several = len(x_BLD) // B
    embedding = tokens.embedding
    tokens = tokens._replace(
      number=jnp.concatenate([tokens.number] * several),
      embedding=None if embedding is None else jnp.concatenate([embedding] * several),
    )
    alone = several > 1 and not together

    def apply_tiles(h_BLD):
      tiles = transformer.make_tiles(config.ffn, control)
      found: Any = tiles.apply({'params': of_layer['ffn'], 'routing': own_state}, h_BLD, tokens)
      y_BLD, info = found
      if number != layer:
        return y_BLD, info
      x_ND, y_ND = (of.reshape(-1, config.d_model) for of in (h_BLD, y_BLD))
      read = ffn.quantise_tiles(of_layer['ffn'], config.ffn)
      at_work = AtWork(x_ND, y_ND, info, read, tokens.number.reshape(-1))
      kept.append(keep(at_work))
      return jnp.concatenate([y_ND[None], outputs(at_work, given)]).reshape(-1, *y_BLD.shape), info

    projections = functools.partial(_apply, transformer.SelfAttention(config), of_layer['attention'])

    def prepare(part, x_BLD, y_BLD, _):
      return transformer.prepare(
        config,
        lambda x: _apply(transformer.norm(config), of_layer[f'{part}_norm'], x),
        lambda x_BPD: _convolve(x_BPD, of_layer[f'{part}_convolution']['taps'], B if alone else len(x_BPD)),
        x_BLD,
        y_BLD,
      )

    def attend(h_BLD, _):
      q, k, v = projections(h_BLD, method='project_heads')
      out_BLHW = _attend(*transformer.turn_heads(config, q, k), v, B if alone else len(q))
      return out_BLHW.reshape(h_BLD.shape), None

    parts = transformer.BlockParts(
      prepare=prepare,
      attend=attend,
      project_out=lambda x: projections(x, method='project_out'),
      apply_tiles=apply_tiles,
      has_residual=control.without != 'residual',
    )
    after = transformer.apply_block(config, parts, x_BLD, y_BLD)
    x_BLD = transformer.add(after.x_BLD, after.y_BLD)
    return transformer.AfterBlock(x_BLD.reshape(-1, L, config.d_model), None, after.info, None)

  parts = transformer.ModelParts(
    vocabulary_size=model.vocabulary_size,
    embed=lambda token_BL: params['embedding']['embedding'][token_BL],
    embed_positions=lambda: params['positions'][:L],
    apply_layer=apply_layer,
    normalise=lambda name, x, y: _apply(transformer.norm(config), params[name], transformer.add(x, y)),
  )
  x_BLD, _, _ = transformer.apply_model(config, parts, window_BL[:, :-1])
  logits = _apply(transformer.make_head(config, model.vocabulary_size), params['head'], x_BLD)
  target_BL = jnp.concatenate([window_BL[:, 1:]] * (len(x_BLD) // B))
  return transformer.next_token_loss(logits, target_BL).reshape(-1, B * L), kept[0]


def _apply(module, params, x: jax.Array, **how: Any) -> Any:
  return module.apply({'params': params}, x, **how)


def _convolve(x_BPD, taps_WD, rows):
  """Apply the short convolution. Rows after the first `rows` read earlier tokens from those."""
  plain_BLD = layers.short_convolution(x_BPD[:rows], taps_WD)
  if rows == len(x_BPD):
    return plain_BLD
  x_SBLD = x_BPD[:, len(taps_WD) - 1 :].reshape(-1, rows, *plain_BLD.shape[1:])
  return (plain_BLD + (1 + taps_WD[0]) * (x_SBLD - x_SBLD[0])).reshape(-1, *plain_BLD.shape[1:])


def _attend(q, k, v, rows):
  """Apply causal attention. Rows after the first `rows` read earlier tokens from those, and themselves."""
  plain = attention.causal_attention(q[:rows], k[:rows], v[:rows])
  if rows == len(q):
    return plain
  L = q.shape[1]
  earlier_QK, same_QK = np.tri(L, k=-1, dtype=bool), np.eye(L, dtype=bool)

  def attend(others):
    own_q, own_k, own_v = others
    score_BHQK = jnp.einsum('bqhw,bkhw->bhqk', own_q, k[:rows])
    own_BHQ1 = jnp.einsum('bqhw,bqhw->bhq', own_q, own_k)[..., None]
    score_BHQK = jnp.where(same_QK, own_BHQ1, jnp.where(earlier_QK, score_BHQK, -jnp.inf))
    weight_BHQK = jax.nn.softmax(score_BHQK * q.shape[-1] ** -0.5)
    of_others = jnp.einsum('bhqk,bkhw->bqhw', jnp.where(same_QK, 0.0, weight_BHQK), v[:rows])
    return of_others + jnp.einsum('bhqq,bqhw->bqhw', weight_BHQK, own_v)

  others = tuple(of[rows:].reshape(-1, rows, *of.shape[1:]) for of in (q, k, v))
  return jnp.concatenate([plain, jax.lax.map(attend, others).reshape(-1, *plain.shape[1:])])


def force_tiles(at_work: AtWork, gate_NT: jax.Array, config: Any) -> jax.Array:
  """Compute every tile on every token, times a gate of each tile: [T, N, D]."""
  return ffn.compute_tile_outputs(at_work.x_ND, at_work.tiles, config) * gate_NT.T[..., None]


def held_windows(trained: checkpoints.Trained) -> np.ndarray:
  """Return every nth whole window of the validation split, each a context and one character, `WINDOWS` or more."""
  windows, targets = corpora.cut_windows(trained.corpus().validation, trained.model.config.context)
  whole = windows[targets == trained.model.config.context]
  return whole[:: max(1, len(whole) // WINDOWS)]
