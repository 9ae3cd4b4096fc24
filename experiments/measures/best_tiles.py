"""How good could a router be? Force every tile on every token of a trained model, one layer at a time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.measures import forced
from trix_jax.core import routing
from trix_jax.data import corpora
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig
from trix_jax.runs import checkpoints

# Windows of the training text that routers are fitted to, and the seed of their draw.
WINDOWS, SEED = 256, 12_345
# The fit of a gate: steps of Adam, tokens of a step, learning rate, and the first lead of the router's own choice.
STEPS, BATCH, LEARNING_RATE, LEAD = 400, 4096, 1e-2, 4.0


class Table(NamedTuple):
  """What each tile of a layer would lose on each token.

  Attributes:
    window_BL: the text.
    routed_N: loss as routed.
    forced_NT: loss with each tile, at the gate that the router gave to its choice.
    own_gate_NT: loss with each tile, at the gate that the router gives to that tile.
    borrowed_NT: loss where each tile changes the output as it would change that of another token; see `measure_layer`.
    x_ND: input of the layer.
    choice_N, signature_N, hash_N: the tile of the model's own routing, of its signatures, and of a hash.
    token_N: the characters.
  """

  window_BL: np.ndarray
  routed_N: np.ndarray
  forced_NT: np.ndarray
  own_gate_NT: np.ndarray
  borrowed_NT: np.ndarray
  x_ND: np.ndarray
  choice_N: np.ndarray
  signature_N: np.ndarray
  hash_N: np.ndarray
  token_N: np.ndarray


def force_every_tile(trained: checkpoints.Trained) -> list[dict[str, Any]]:
  """Return a row for each layer; see `measure_layer`. Models without an index, with one tile a token."""
  config = trained.model.config
  if config.ffn.top_k != 1 or config.ffn.clusters or config.ffn.way.takes_all:
    raise ValueError('every tile is forced in models whose tokens compute one tile, without an index')
  train = corpora.draw_batch(trained.corpus().train, config.context, WINDOWS, SEED, 0)
  validation = forced.held_windows(trained)
  rows = []
  for layer in range(config.layers):
    rows.append({'layer': layer, **measure_layer(trained, layer, train, validation)})
    print(f'  {rows[-1]}', flush=True)
  return rows


def measure_layer(
  trained: checkpoints.Trained, layer: int, train_BL: np.ndarray, validation_BL: np.ndarray
) -> dict[str, Any]:
  """Measure how good the choices of routers are in one layer, when nothing else changes.

  Every tile computes every token, with the gate that the model's router gave to its own choice. So only the choice
  differs. Each token is changed alone; see `forced`. The oracle takes the tile with the lowest loss of the next
  character. No router knows that character, so the oracle is a bound and partly luck. Two figures tell how much:

  - `borrowed`: an oracle of as many changes of the same sizes, which say nothing about the token. Token i takes the
    changes that the tiles would make at another token: their outputs less that of its choice.
  - `fitted` and `by_character`: the choices of a gate that is fitted to the losses of training text, see `fit_gate`,
    and of a table with a tile for each character. They are what a router can reach for certain.

  Returns:
    routed, oracle, borrowed, own_gate_oracle: losses in nats. `own_gate_oracle` has the gates of the tiles themselves.
    ways: for every way to choose, its loss when tokens change alone, its loss when all tokens change at once, and how
    often it takes the best tile, and one of the best two.
  """
  seen, held = (look_at(trained, layer, window_BL) for window_BL in (train_BL, validation_BL))
  choices = choose(seen, held)
  T, N = held.forced_NT.shape[1], len(held.routed_N)
  oracle_N = held.forced_NT.argmin(axis=1)
  together = lose_together(trained, layer, validation_BL, np.stack([oracle_N, *choices.values()]))
  uniform = {'loss': float(held.forced_NT.mean()), 'together': None, 'best': 1 / T, 'best_two': min(1.0, 2 / T)}
  return {
    'tokens': N,
    'routed': float(held.routed_N.mean()),
    'oracle': float(held.forced_NT.min(axis=1).mean()),
    'oracle_together': together[0],
    'borrowed': float(held.borrowed_NT.min(axis=1).mean()),
    'own_gate_oracle': float(held.own_gate_NT.min(axis=1).mean()),
    'ways': {
      **{
        name: {**judge_choice(held.forced_NT, choice_N), 'together': loss}
        for (name, choice_N), loss in zip(choices.items(), together[1:], strict=True)
      },
      'uniform': uniform,
    },
  }


def choose(seen: Table, held: Table) -> dict[str, np.ndarray]:
  """Return the tile of every token of `held` by each way to choose; some are fitted to `seen`."""
  # What a tile loses more than the mean of all on the same token; the mean itself does not change the choice.
  excess_NT = seen.forced_NT - seen.forced_NT.mean(axis=1, keepdims=True)
  V = 1 + max(seen.token_N.max(), held.token_N.max())
  excess_VT = np.zeros((V, excess_NT.shape[1]))
  np.add.at(excess_VT, seen.token_N, excess_NT)  # A character that was not seen takes tile 0.
  gate = fit_gate(seen.x_ND, seen.choice_N, excess_NT)
  return {
    'routed': held.choice_N,
    'signatures': held.signature_N,
    'hash': held.hash_N,
    'one_tile': np.full(len(held.token_N), excess_NT.mean(axis=0).argmin()),
    'by_character': excess_VT.argmin(axis=1)[held.token_N],
    'fitted': np.asarray(_logits(gate, held.x_ND, held.choice_N)).argmax(axis=1),
  }


def fit_gate(x_ND: np.ndarray, choice_N: np.ndarray, excess_NT: np.ndarray) -> dict[str, jax.Array]:
  """Fit a linear gate to the expected loss of tiles drawn by its softmax, starting at the router's own choice.

  The loss of every tile is known, so that no draw is needed. The gate reads the layer's input, and the router's choice
  by a bonus for it. So it changes a choice only where training text says that this lowers the loss.
  """
  T, optimizer = excess_NT.shape[1], optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))
  gate = {'kernel': jnp.zeros((x_ND.shape[1], T)), 'bias': jnp.zeros(T), 'lead': jnp.asarray(LEAD)}
  data = tuple(map(jnp.asarray, (x_ND, choice_N, excess_NT.astype(np.float32))))

  def expected_loss(gate, x_ND, choice_N, excess_NT):
    return jnp.sum(jax.nn.softmax(_logits(gate, x_ND, choice_N)) * excess_NT, axis=1).mean()

  @jax.jit
  def step(index, carried):
    gate, state = carried
    at_B = jax.random.randint(jax.random.key(index), (BATCH,), 0, len(x_ND))
    gradient = jax.grad(expected_loss)(gate, *(of[at_B] for of in data))
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(gate, updates), state

  fitted: dict[str, jax.Array] = jax.lax.fori_loop(0, STEPS, step, (gate, optimizer.init(gate)))[0]
  return fitted


def _logits(gate, x_ND, choice_N):
  own_NT = jax.nn.one_hot(choice_N, len(gate['bias']))
  return jnp.asarray(x_ND) @ gate['kernel'] + gate['bias'] + gate['lead'] * own_NT


def judge_choice(forced_NT: np.ndarray, choice_N: np.ndarray) -> dict[str, float]:
  """Return the loss of a choice, and how often no tile loses less than it does, and at most one."""
  loss_N1 = np.take_along_axis(forced_NT, choice_N[:, None], axis=1)
  better_N = (forced_NT < loss_N1).sum(axis=1)
  return {'loss': float(loss_N1.mean()), 'best': float((better_N < 1).mean()), 'best_two': float((better_N < 2).mean())}


def look_at(trained: checkpoints.Trained, layer: int, window_BL: np.ndarray) -> Table:
  """Force every tile of a layer on every token of some windows, each token alone."""
  config = trained.model.config.ffn

  def outputs(at_work, _):
    T, N = config.tiles, len(at_work.x_ND)
    chosen_NT = jnp.broadcast_to(at_work.info.gate_NK, (N, T))
    forced_TND = forced.force_tiles(at_work, chosen_NT, config)
    change_TND = forced_TND - at_work.y_ND
    # The other token is half of these windows away, so that nothing about it tells of this one.
    borrowed_TND = at_work.y_ND + jnp.roll(change_TND, N // 2 + 1, axis=1)
    own_TND = forced.force_tiles(at_work, gates_of(at_work.info, config), config)
    return jnp.concatenate([forced_TND, own_TND, borrowed_TND])

  def keep(at_work):
    choice_N = at_work.info.tile_NK[:, 0]
    return at_work.x_ND, choice_N, by_signatures(at_work, choice_N, config), at_work.token_N

  routed_N, loss_SN, (x_ND, choice_N, signature_N, token_N) = forced.run(trained, layer, window_BL, outputs, keep)
  forced_NT, own_gate_NT, borrowed_NT = (of.T for of in np.split(loss_SN, 3))
  hash_N = token_N % config.tiles
  return Table(window_BL, routed_N, forced_NT, own_gate_NT, borrowed_NT, x_ND, choice_N, signature_N, hash_N, token_N)


def gates_of(info: routing.RoutingInfo, config: FFNConfig) -> jax.Array:
  """Return the gate that the router gives to each tile, [N, T]: 1, or its probability."""
  if config.gate == 'one_hot':
    return jnp.ones_like(info.probability_NJ)
  return info.probability_NJ


def by_signatures(at_work: forced.AtWork, choice_N: jax.Array, config: FFNConfig) -> jax.Array:
  """Return the tile whose signature scores the stream highest, or the router's choice where it asks the token."""
  if config.address != 'stream':
    return choice_N
  asked = ffn.quantise_asked(at_work.x_ND, config)
  dot_NT = routing.signature_dots(asked.q_ND, at_work.tiles.signatures_TD)
  return routing.select(dot_NT * at_work.tiles.signature_scale_T, 1)[:, 0]


def lose_together(
  trained: checkpoints.Trained, layer: int, window_BL: np.ndarray, choice_CN: np.ndarray
) -> list[float]:
  """Return the loss of each choice when all tokens take theirs at once, with the gates of the router's choices."""
  config = trained.model.config.ffn

  def outputs(at_work, choice_BCL):
    T, N = config.tiles, len(at_work.x_ND)
    forced_TND = forced.force_tiles(at_work, jnp.broadcast_to(at_work.info.gate_NK, (N, T)), config)
    choice_CN = choice_BCL.transpose(1, 0, 2).reshape(-1, N)
    return forced_TND[choice_CN, jnp.arange(N)]

  choice_BCL = choice_CN.reshape(len(choice_CN), len(window_BL), -1).transpose(1, 0, 2)
  _, loss_CN, _ = forced.run(trained, layer, window_BL, outputs, given=choice_BCL, together=True)
  return [float(loss) for loss in loss_CN.mean(axis=1)]
