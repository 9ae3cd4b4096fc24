"""Edit a trained model in many ways, and measure its loss under re-read, stale and refitted keys.

`experiments/suites/edits.py` says what these keys are. Each is made a linear gate, so that keys alone differ. Nothing
but the refitted gate is trained.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.measures import carved
from experiments.suites.edits import PRIMARY
from trix_jax.core import signatures
from trix_jax.data import corpora
from trix_jax.editing import carving, edits, merging, pruning, splitting
from trix_jax.evaluation.evaluator import Evaluator, change_routing, record_tiles
from trix_jax.inspection import gate_fitting
from trix_jax.nn import ffn, transformer
from trix_jax.nn.model_config import FFNConfig, ModelConfig
from trix_jax.runs import checkpoints

# Steps of fitting a gate to an edited model.
STEPS = 300

# The gates of all layers, by the name of the layer.
Gates = dict[str, dict[str, jax.Array]]


def edit_in_many_ways(trained: checkpoints.Trained) -> list[dict[str, Any]]:
  """Return a row for each edit and key: edit, key, loss."""
  validation = trained.corpus().validation
  learned = trained.model.config.ffn.way.has_gate
  rows = []
  for name, edit in {**_edits(trained), **({} if learned else _alternatives(trained))}.items():
    edited = edits.edit_layers(trained.params, trained.routing_state, trained.model.config, edit)
    gates = {'reread': read_gates(edited.params, edited.config)}
    if learned:
      gates['stale_row'] = {layer: edited.params[layer]['ffn']['gate'] for layer in gates['reread']}
    else:
      gates['stale_read'] = read_gates(trained.params, trained.model.config, edited.changes)
    if name in ('none', *PRIMARY):
      gates['refitted'] = refit(trained, edited, gates['stale_row' if learned else 'reread'])
    evaluate = Evaluator(change_routing(edited.config, 'learned'), trained.vocabulary, validation)
    for key, of_key in gates.items():
      rows.append({'edit': name, 'key': key, 'loss': evaluate(set_gates(edited.params, of_key))['loss']})
      print(f'  {rows[-1]}', flush=True)
  return rows


def _edits(trained: checkpoints.Trained) -> dict[str, edits.Edit]:
  """Return the edits by name. The weights choose tiles, as they do in `trix edit`."""
  layers = trained.model.config.layers

  def replace(params, config, layer):
    other = (layer + 1) % layers
    theirs = edits.own_scales(trained.params[f'layer_{other}']['ffn'])
    tile = int(jnp.argmax(pruning.weigh_tiles(theirs, config)))
    lightest = int(jnp.argmin(pruning.weigh_tiles(params, config)))
    return edits.replace(params, config, lightest, edits.take(theirs, [tile]), (other, tile))

  def permute(params, config, _):
    T = config.tiles
    return edits.Change(edits.take(params, np.roll(np.arange(T), 1).tolist()), jnp.eye(T), 'tiles have moved on by one')

  return {
    'none': lambda params, config, _: edits.keep(params, config),
    'prune': lambda params, config, _: pruning.prune(params, config, config.hidden // 2),
    'merge': lambda params, config, _: merging.merge(params, config),
    'split': lambda params, config, _: splitting.split(params, config),
    'replace': replace,
    'permute': permute,
  }


def _alternatives(trained: checkpoints.Trained) -> dict[str, edits.Edit]:
  """Return what `prune` and `merge` are compared with."""
  active_YTH = weigh_by_activation(trained)

  def prune_by(weigh: Callable[[edits.Params, FFNConfig, int], jax.Array]) -> edits.Edit:
    return lambda params, config, layer: pruning.prune(params, config, config.hidden // 2, weigh(params, config, layer))

  return {
    'prune_by_magnitude': prune_by(lambda params, config, _: weigh_by_magnitude(params, config)),
    'prune_by_activation': prune_by(lambda _, __, layer: active_YTH[layer]),
    'drop_one_of_the_pair': lambda params, config, _: edits.remove(
      params, config, merging.find_most_alike(params, config)[1]
    ),
  }


def weigh_by_magnitude(params: edits.Params, config: FFNConfig) -> jax.Array:
  """Return the sizes of each unit's input and output weights, multiplied as in `pruning.weigh_by_votes`: [T, H]."""
  tiles = ffn.quantise_tiles(dict(params), config)
  in_TH = jnp.linalg.norm(tiles.up_TDH, axis=1) * jnp.abs(tiles.up_scale_TH)
  return in_TH * ffn.measure_outputs(tiles) ** (1 / carving.activation_power(config))


def weigh_by_activation(trained: checkpoints.Trained) -> list[jax.Array]:
  """Return for each layer what units put out on training text, the mean over the tokens of their tile: [T, H]."""
  model = trained.model.config
  T, H = model.ffn.tiles, model.ffn.hidden
  windows = corpora.draw_batch(trained.corpus().train, model.context, carved.WINDOWS, 0, 0)
  tile_YNK, _ = record_tiles(trained.model, trained.params, trained.routing_state, windows[:, :-1].reshape(-1))
  return [
    jnp.stack(
      [_mean_of(seen.active_NF[:, tile * H : (tile + 1) * H], (tile_NK == tile).any(axis=1)) for tile in range(T)]
    )
    for seen, tile_NK in zip(carved.look_at_layers(trained), tile_YNK, strict=True)
  ]


def _mean_of(active_NH, chosen_N):
  return active_NH[chosen_N].mean(axis=0) if chosen_N.any() else np.zeros(active_NH.shape[1])


def read_gates(params: Any, config: ModelConfig, changes: tuple[edits.Change, ...] = ()) -> Gates:
  """Return the gates whose logits are the scores of signatures, up to the quantisation of what they score.

  Args:
    params, config: of the model whose signatures are read.
    changes: of its layers, to carry its signatures to tiles that were edited since.
  """
  gates = {}
  for layer in range(config.layers):
    key_TD = ffn.quantise_tiles(params[f'layer_{layer}']['ffn'], config.ffn).signatures_TD
    if changes:
      key_TD = edits.carry(changes[layer], key_TD)
    scale_T1 = signatures.scale_of(key_TD, config.ffn.signature)[:, None]
    gates[f'layer_{layer}'] = {
      'kernel': (key_TD * scale_T1).T * config.d_model**-0.5,
      'bias': jnp.zeros(len(key_TD)),
    }
  return gates


def set_gates(params: Any, gates: Gates) -> Any:
  """Return a model's parameters with the given gates."""
  return params | {name: {**params[name], 'ffn': {**params[name]['ffn'], 'gate': gate}} for name, gate in gates.items()}


def refit(trained: checkpoints.Trained, edited: edits.Edited, start: Gates) -> Gates:
  """Return gates that are fitted to an edited model."""
  emergent = change_routing(edited.config, 'emergent')
  frozen = dataclasses.replace(
    trained,
    config=dataclasses.replace(trained.config, model=emergent),
    model=transformer.TransformerLM(emergent, len(trained.vocabulary)),
    params=edited.params,
  )
  fitted = gate_fitting.fit_gate(frozen, min(STEPS, trained.config.training.steps), start=start)
  return {name: fitted[name]['ffn']['gate'] for name in start}
