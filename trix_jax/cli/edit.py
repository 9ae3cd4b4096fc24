"""Edit the tiles of a trained model, without training it.

  trix edit --edit=prune --workdir=runs/sparse --units=64 --out=runs/pruned
  trix edit --edit=merge --workdir=runs/sparse --out=runs/merged
  trix edit --edit=replace --workdir=runs/sparse --tile=2 --source=runs/sibling --source_tile=0 --out=runs/replaced
  trix eval --workdir=runs/merged

The edits:

  prune    every tile keeps --units of its hidden units, by default half: those whose votes matter most
  merge    two tiles become one by majority vote, by default the two of the most similar signatures; see --pair
  split    one tile becomes two, each with the half of its units that read alike
  clone    a tile gets a copy, which training can move away from it
  remove   a tile goes; its tokens take the tiles that are next
  replace  a tile makes room for another one: of this run, or of --source

A tile works with the model around it. So --source pays where both runs began as one, for example by
training.start_from. A tile of a model that was trained on its own does not fit this one.

An edit changes every layer, because all layers share their numbers of tiles and units. Only `replace` can keep to
--layer. --tile names the tile: one number for all layers, or one for each. Without it the weights tell: `remove` and
`replace` take the tile whose votes matter least, `clone` the one whose votes matter most, and `split` the one whose
units agree least. Numbers start at 0.

Tiles that an edit does not name keep every bit. Signatures are read from the edited codes, so emergent routing has its
new addresses at once. A learned gate cannot be read: a copy and both halves take the column of their former tile, a
merged tile the mean of two, and a replaced one keeps its place's. Balance biases go the same way. The state of the
optimizer starts anew.

The program prints the figures before and after. --out becomes the folder of a run; --workdir stays as it is.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from absl import flags

from trix_jax.cli import arguments, new_run
from trix_jax.editing import edits, merging, pruning, splitting
from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import Evaluator
from trix_jax.nn import transformer
from trix_jax.nn.model_config import FFNConfig, ModelConfig, flatten_model
from trix_jax.runs import checkpoints, origins

# Flags that only some edits read.
READS = {
  'prune': ('units',),
  'merge': ('pair',),
  'split': ('tile',),
  'clone': ('tile',),
  'remove': ('tile',),
  'replace': ('tile', 'layer', 'source', 'source_layer', 'source_tile'),
}

FLAGS = flags.FlagValues()
_EDIT = flags.DEFINE_enum('edit', None, list(READS), 'What to do.', required=True, flag_values=FLAGS)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run.', required=True, flag_values=FLAGS)
_CHECKPOINT = flags.DEFINE_enum(
  'checkpoint', 'best', checkpoints.KINDS, 'Checkpoint to edit, and that of --source.', flag_values=FLAGS
)
_OUT = flags.DEFINE_string('out', None, 'Folder of the new run.', required=True, flag_values=FLAGS)
_UNITS = flags.DEFINE_integer('units', None, 'prune: hidden units that every tile keeps.', flag_values=FLAGS)
_PAIR = flags.DEFINE_list(
  'pair', [], 'merge: two tiles, such as 2,5, the same in all layers; or two for each layer.', flag_values=FLAGS
)
_TILE = flags.DEFINE_list(
  'tile', [], 'split, clone, remove, replace: the tile, one number for all layers or one for each.', flag_values=FLAGS
)
_LAYER = flags.DEFINE_list('layer', [], 'replace: only in these layers.', flag_values=FLAGS)
_SOURCE = flags.DEFINE_string(
  'source', None, 'replace: folder of the run that the new tile is from; by default --workdir.', flag_values=FLAGS
)
_SOURCE_LAYER = flags.DEFINE_list(
  'source_layer', [], 'replace: layer of the new tile; by default the layer that it goes to.', flag_values=FLAGS
)
_SOURCE_TILE = flags.DEFINE_list(
  'source_tile', [], 'replace: number of the new tile; by default the one whose votes matter most.', flag_values=FLAGS
)


def main() -> None:
  out, workdir, name = arguments.folder_of(_OUT), arguments.folder_of(_WORKDIR), _EDIT.value
  for flag in dict.fromkeys(flag for of_edit in READS.values() for flag in of_edit):
    if FLAGS[flag].present and flag not in READS[name]:
      users = ', '.join(edit for edit, of_edit in READS.items() if flag in of_edit)
      raise InputError(f'--{flag} is of {users}, and --edit={name} does not read it; leave it out')
    if FLAGS[flag].present and FLAGS[flag].value in ('', []):
      raise InputError(f'--{flag} is empty; leave it out, or give it a value')
  sources = [arguments.folder_of(_SOURCE)] if FLAGS['source'].present else []
  new_run.check_free(out, workdir, *sources)
  trained = new_run.load_source(workdir, _CHECKPOINT.value)
  corpus = trained.corpus()
  model = trained.config.model
  source = _load_source(trained) if name == 'replace' else trained
  edited = edits.edit_layers(trained.params, trained.routing_state, model, _make_edit(name, trained, source))
  config = dataclasses.replace(trained.config, model=edited.config)
  before, after = (
    Evaluator(of, corpus.vocabulary, corpus.validation)(params, state)
    for of, params, state in ((model, trained.params, trained.routing_state), (edited.config, *edited[:2]))
  )
  others = origins.edit(trained, edited.changes, None if source is trained else source)
  new_run.write(out, config, corpus, edited.params, edited.routing_state, trained.step, after, others)
  print(f'{"":<8}{"loss":>8}{"perplexity":>12}{"parameters":>12}{"tiles":>7}{"units":>7}{"dead tiles":>12}')
  print(_line('before', before, trained.params, model))
  print(_line('after', after, edited.params, edited.config))
  for layer, change in enumerate(edited.changes):
    print(f'layer {layer}: {change.said}')
  print(
    f'{after["loss"] - before["loss"]:+.4f} nats; to train on: {" ".join(_settings_to_train(model, edited.config))}'
  )


def _line(name: str, figures: dict[str, Any], params: Any, config: ModelConfig) -> str:
  return (
    f'{name:<8}{figures["loss"]:8.4f}{figures["perplexity"]:12.3f}{transformer.count_parameters(params):12,}'
    f'{config.ffn.tiles:7}{config.ffn.d_ff:7}{sum(figures["dead_tiles"]):12}'
  )


def _settings_to_train(before: ModelConfig, after: ModelConfig) -> list[str]:
  """List the settings of `trix train` that start from the edited run and differ from those of the source."""
  old, new = flatten_model(before), flatten_model(after)
  changed = [f'--config.model.{name}={value}' for name, value in new.items() if value != old[name]]
  return [f'--config.training.start_from={_OUT.value}', *changed]


def _make_edit(name: str, trained: checkpoints.Trained, source: checkpoints.Trained) -> edits.Edit:
  """Return the edit that the flags describe. Raise InputError for flags that describe none."""
  layers = trained.config.model.layers
  tile_Y = _for_layers(_TILE, layers)
  for number in tile_Y:
    edits.require_tile(number, trained.config.model.ffn)

  def tile_of(params: edits.Params, config: FFNConfig, layer: int, most: bool) -> int:
    if tile_Y:
      return tile_Y[layer]
    weight_T = pruning.weigh_tiles(params, config)
    return int(jnp.argmax(weight_T) if most else jnp.argmin(weight_T))

  if name == 'prune':
    if trained.config.model.ffn.hidden == 1:
      raise InputError('every tile has one hidden unit, so none can go; remove tiles instead')
    return lambda params, config, _: pruning.prune(
      params, config, max(1, config.hidden // 2) if _UNITS.value is None else _UNITS.value
    )
  if name == 'merge':
    pair_Y = _for_layers(_PAIR, layers, 2)
    return lambda params, config, layer: merging.merge(
      params, config, (pair_Y[2 * layer], pair_Y[2 * layer + 1]) if pair_Y else None
    )
  if name == 'split':
    return lambda params, config, layer: splitting.split(params, config, tile_Y[layer] if tile_Y else None)
  if name == 'clone':
    return lambda params, config, layer: edits.clone(params, config, tile_of(params, config, layer, True))
  if name == 'remove':
    return lambda params, config, layer: edits.remove(params, config, tile_of(params, config, layer, False))
  given = dataclasses.replace(source.config.model.ffn, shared_down_scale=False)
  from_layer_Y = _for_layers(_SOURCE_LAYER, layers) or list(range(layers))
  from_tile_Y = _for_layers(_SOURCE_TILE, layers)
  where = range(layers) if not _LAYER.value else _numbers(_LAYER)
  for flag, numbers, count in (
    (_LAYER, where, layers),
    (_SOURCE_LAYER, from_layer_Y, source.config.model.layers),
  ):
    if wrong := [number for number in numbers if not 0 <= number < count]:
      raise InputError(f'--{flag.name} names layer {wrong[0]}; choose from 0 to {count - 1}')

  def replace(params: edits.Params, config: FFNConfig, layer: int) -> edits.Change:
    if layer not in where:
      return edits.keep(params, config)
    new = edits.own_scales(source.params[f'layer_{from_layer_Y[layer]}']['ffn'])
    from_tile = from_tile_Y[layer] if from_tile_Y else int(jnp.argmax(pruning.weigh_tiles(new, given)))
    place = from_layer_Y[layer], edits.require_tile(from_tile, given)
    tile = tile_of(params, config, layer, False)
    return edits.replace(params, config, tile, edits.take(new, [from_tile]), place, _SOURCE.value or '')

  return replace


def _load_source(trained: checkpoints.Trained) -> checkpoints.Trained:
  """Load the run of the new tile. Raise InputError where its weights would mean something else here."""
  if not FLAGS['source'].present:
    return trained
  source = new_run.load_source(arguments.folder_of(_SOURCE), _CHECKPOINT.value)
  theirs, ours = source.config.model.ffn, trained.config.model.ffn
  if theirs.clusters:
    raise InputError(
      f'the tiles of {_SOURCE.value} are behind an index, and those of --workdir are not; choose a --source of '
      'model.clusters=0'
    )
  for name in ('quantiser', 'activation', 'int8_activations', 'd_model', 'hidden'):
    if getattr(theirs, name) != getattr(ours, name):
      raise InputError(
        f'the tiles of {_SOURCE.value} have {name} = {getattr(theirs, name)}, and those of --workdir '
        f'{getattr(ours, name)}; choose a --source with the same'
      )
  return source


def _for_layers(flag: flags.FlagHolder, layers: int, each: int = 1) -> list[int]:
  """Return the numbers of a flag, `each` for every layer; none without the flag."""
  numbers = _numbers(flag)
  if len(numbers) == each:
    return numbers * layers
  if len(numbers) not in (0, each * layers):
    few = {1: 'one number', 2: 'two numbers'}[each]
    raise InputError(
      f'--{flag.name} has {len(numbers)} numbers; give {few} for all layers, or {each * layers}, {few} for each layer'
    )
  return numbers


def _numbers(flag: flags.FlagHolder) -> list[int]:
  try:
    return [int(number) for number in flag.value]
  except ValueError as error:
    raise InputError(f'--{flag.name}={",".join(flag.value)} is no list of whole numbers, such as 0,2') from error
