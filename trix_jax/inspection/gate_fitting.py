"""Fit a learned gate to a frozen model, as a yardstick for routing by signatures."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import change_routing
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints

BATCH = 16
LEARNING_RATE = 1e-2


def fit_gate(
  trained: checkpoints.Trained, steps: int, seed: int = 0, start: dict[str, dict[str, jax.Array]] | None = None
) -> Any:
  """Fit gates for `learned` routing to the training text and return the parameters with them; all else is unchanged.

  The gates minimise the language-model loss of the sparse model itself. The fit keeps the one-hot or probability gate
  of the model's training (straight-through for one_hot). Adam at 1e-2, cosine to 0, 16 windows a step.

  Args:
    trained: the model.
    steps: of fitting.
    seed: of the windows, and of the first gates.
    start: gates to start from, by the name of their layer; by default random ones.

  Raises:
    InputError: when the model already has a learned gate, or an index.
  """
  if trained.model.config.ffn.way.has_gate:
    raise InputError('this model has learned a gate of its own, which is evaluated anyway; leave out --fit_gate')
  if trained.model.config.ffn.clusters:
    raise InputError('this model finds its tiles through an index, which a gate does not; leave out --fit_gate')
  config = change_routing(trained.model.config, 'learned')
  model = transformer.TransformerLM(config, len(trained.vocabulary))
  corpus = trained.corpus()
  layers = [f'layer_{layer}' for layer in range(config.layers)]
  gates = start
  if gates is None:
    fresh = model.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))['params']
    gates = {name: fresh[name]['ffn']['gate'] for name in layers}
  optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))

  def with_gates(gates):
    return {
      **trained.params,
      **{
        name: {**trained.params[name], 'ffn': {**trained.params[name]['ffn'], 'gate': gates[name]}} for name in layers
      },
    }

  def loss_fn(gates, windows):
    logits, _ = transformer.apply(model, with_gates(gates), {}, windows[:, :-1])
    return transformer.next_token_loss(logits, windows[:, 1:]).mean()

  @jax.jit
  def step_fn(gates, opt_state, windows):
    loss, grads = jax.value_and_grad(loss_fn)(gates, windows)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(gates, updates), opt_state, loss

  opt_state = optimizer.init(gates)
  for step in range(steps):
    windows = corpora.draw_batch(corpus.train, config.context, BATCH, seed, step)
    gates, opt_state, loss = step_fn(gates, opt_state, windows)
    if (step + 1) % 50 == 0 or step + 1 == steps:
      print(f'fitting the gate: step {step + 1}/{steps}, training loss {float(loss):.4f}', flush=True)
  return with_gates(gates)
