"""`trix edit` leaves the folder of a run, which every other program takes, and its source as it was."""

import json
import os
import pathlib
import re
import types

import jax
import numpy as np
import pytest
from programs import bad, run, train

from trix_jax.cli import edit, new_run
from trix_jax.errors import InputError
from trix_jax.nn.model_config import parse_model
from trix_jax.runs import checkpoints
from trix_jax.system import files

pytestmark = pytest.mark.slow
BIASED = ('--config.model.balance_bias=True', '--config.loss.balance_bias_rate=0.02')


@pytest.fixture(scope='module')
def source(text, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('source') / 'run'
  result = train(text, workdir, *BIASED)
  assert result.returncode == 0, result.stderr
  return workdir


@pytest.fixture(scope='module')
def learned(text, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('learned') / 'run'
  result = train(text, workdir, '--config.model.routing=learned')
  assert result.returncode == 0, result.stderr
  return workdir


def content(folder):
  return {path: path.read_bytes() for path in sorted(pathlib.Path(folder).rglob('*')) if path.is_file()}


# What each edit is given, the tiles and units of the result, and a part of what it says of layer 0.
EDITS = {
  'prune': ((), 4, 16, 'layer 0: each tile keeps 4 of 8 units'),
  'merge': (('--pair=3,1',), 3, 24, 'layer 0: tiles 1 and 3 became tile 1; similarity'),
  'split': (('--tile=2',), 5, 40, 'layer 0: tile 2 became tiles 2 and 4'),
  'clone': ((), 5, 40, 'layer 0: tile 4 is a copy of tile '),
  'remove': (('--tile=0',), 3, 24, 'layer 0: tile 0 is gone'),
  'replace': (('--tile=1', '--source_tile=2'), 4, 32, 'layer 0: tile 1 is now tile 2 of layer 0'),
}


@pytest.mark.parametrize('name', EDITS)
def test_an_edited_run_is_used_like_any_other_and_its_source_stays(source, text, tmp_path, name):
  arguments, tiles, units, said = EDITS[name]
  before = content(source)
  out = tmp_path / 'new' / 'run'
  result = run('edit', f'--edit={name}', f'--workdir={source}', f'--out={out}', *arguments)
  assert result.returncode == 0, result.stderr
  assert said in result.stdout
  trained = checkpoints.load_trained(out, 'last')
  assert (trained.config.model.ffn.tiles, trained.config.model.ffn.d_ff) == (tiles, units)
  row = json.loads((out / 'eval_sparse.json').read_text())[0]
  table = re.findall(r'^(before|after) +([\d.]+) +([\d.]+) +([\d,]+) +(\d+) +(\d+) +(\d+)$', result.stdout, re.M)
  assert [line[0] for line in table] == ['before', 'after'] and table[0][4:6] == ('4', '32')
  described = json.loads((out / 'run.json').read_text())
  assert table[1][1:] == (
    f'{row["loss"]:.4f}',
    f'{row["perplexity"]:.3f}',
    f'{described["parameters"]["total"]:,}',
    str(tiles),
    str(units),
    str(sum(row['dead_tiles'])),
  )
  assert os.listdir(out.parent) == ['run'] and content(source) == before
  result = run('eval', f'--workdir={out}', '--backend=packed')
  assert result.returncode == 0 and f'emergent      {row["loss"]:.4f}' in result.stdout, result.stderr
  assert run('generate', f'--workdir={out}', '--prompt=the ', '--length=8').returncode == 0
  assert run('export', f'--workdir={out}', f'--out={tmp_path / "model.safetensors"}').returncode == 0


def test_the_settings_that_an_edit_names_train_on(source, text, tmp_path):
  out = tmp_path / 'merged'
  result = run('edit', '--edit=merge', f'--workdir={source}', f'--out={out}')
  settings = result.stdout.strip().rpartition('to train on: ')[2].split()
  assert settings == [f'--config.training.start_from={out}', '--config.model.d_ff=24', '--config.model.tiles=3']
  # The d_ff of this test's model comes first, and the later flag counts.
  result = train(text, tmp_path / 'on', *BIASED, *settings)
  assert result.returncode == 0, result.stderr


def test_a_learned_gate_and_a_tile_of_another_run(source, learned, tmp_path):
  out = tmp_path / 'replaced'
  arguments = ('--edit=replace', '--tile=3', f'--source={source}', '--source_tile=1', f'--out={out}')
  result = run('edit', f'--workdir={learned}', *arguments)
  assert result.returncode == 0, result.stderr
  assert f'layer 0: tile 3 is now tile 1 of layer 0 of {source}' in result.stdout
  new, old, other = (
    checkpoints.load_trained(workdir, 'best').params['layer_0']['ffn'] for workdir in (out, learned, source)
  )
  np.testing.assert_array_equal(new['up'], np.concatenate([old['up'][:3], other['up'][1:2]]))
  jax.tree.map(np.testing.assert_array_equal, new['gate'], old['gate'])


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('--edit=prune', '--tile=1'), '--tile is of split, clone, remove, replace, and --edit=prune does not read it'),
    (('--edit=merge', '--units=2'), '--units is of prune, and --edit=merge'),
    (('--edit=prune', '--units=9'), '9 units to keep; choose a number from 1 to 8'),
    (('--edit=remove', '--tile=4'), 'there is no tile 4'),
    (('--edit=remove', '--tile=one'), '--tile=one is no list of whole numbers'),
    (('--edit=remove', '--tile=1,2,3'), '--tile has 3 numbers; give one number for all layers, or 1'),
    (('--edit=merge', '--pair=1'), '--pair has 1 numbers; give two numbers for all layers'),
    (('--edit=replace', '--tile=4'), 'there is no tile 4'),
    (('--edit=replace', '--layer=1'), '--layer names layer 1; choose from 0 to 0'),
    (('--edit=replace', '--source_layer=2'), '--source_layer names layer 2'),
    (('--edit=replace', '--source='), '--source is empty'),
    (('--edit=split', '--tile='), '--tile is empty; leave it out'),
    (('--edit=merge', '--pair='), '--pair is empty; leave it out'),
    (('--edit=shuffle',), 'shuffle'),
    (('--edit=prune', '--out='), '--out is empty'),
  ],
)
def test_what_cannot_be_done_is_said_in_a_line_and_leaves_no_folder(source, tmp_path, arguments, message):
  out = tmp_path / 'new' / 'out'
  bad(run('edit', f'--workdir={source}', f'--out={out}', *arguments), message)
  assert not out.parent.exists()


def test_tiles_of_one_unit_have_none_to_prune(source, tmp_path):
  edit.FLAGS(['edit', '--edit=prune', f'--workdir={source}', f'--out={tmp_path / "out"}'])
  run_of = types.SimpleNamespace(config=types.SimpleNamespace(model=parse_model({'layers': 1, 'tiles': 8, 'd_ff': 8})))
  with pytest.raises(InputError, match='every tile has one hidden unit, so none can go; remove tiles instead'):
    edit._make_edit('prune', run_of, run_of)


def test_a_run_is_never_edited_over_another(source, tmp_path):
  before = content(source)
  bad(run('edit', '--edit=clone', f'--workdir={source}', f'--out={source}'), 'holds a run already')
  assert content(source) == before
  (tmp_path / 'notes.txt').write_text('mine')
  bad(run('edit', '--edit=clone', f'--workdir={source}', f'--out={tmp_path}'), 'is not empty; choose another --out')
  assert os.listdir(tmp_path) == ['notes.txt']


def test_a_new_run_is_never_written_inside_of_its_source(source, learned):
  before = content(source)
  bad(run('edit', '--edit=clone', f'--workdir={source}', f'--out={source / "new"}'), 'is inside of the run')
  flags = ('--edit=replace', f'--workdir={learned}', f'--source={source}', f'--out={source / "new"}')
  bad(run('edit', *flags), f'is inside of the run {source}')
  assert content(source) == before


def test_a_model_with_weights_that_are_no_numbers_is_not_edited(source, tmp_path):
  trained = checkpoints.load_trained(source, 'best')
  params = jax.tree.map(lambda leaf: leaf, trained.params)
  params['layer_0']['ffn']['up'] = params['layer_0']['ffn']['up'].at[0, 0, 0].set(np.nan)
  broken = tmp_path / 'broken'
  new_run.write(broken, trained.config, trained.corpus(), params, trained.routing_state, 1, {'loss': 1.0})
  for flags in (
    ('--edit=clone', f'--workdir={broken}'),
    ('--edit=replace', f'--workdir={source}', f'--source={broken}'),
  ):
    bad(run('edit', *flags, f'--out={tmp_path / "out"}'), 'layer_0.ffn.up of the best checkpoint', 'not finite')
  assert [path.name for path in tmp_path.iterdir()] == ['broken']


def test_a_run_that_cannot_be_written_whole_is_not_written_and_nothing_else_is_left(source, tmp_path, monkeypatch):
  trained = checkpoints.load_trained(source, 'best')
  monkeypatch.setattr(new_run.checkpoints.Checkpoints, 'save', lambda *_: (_ for _ in ()).throw(OSError(28, 'full')))
  killed = tmp_path / '.out.0123abcd.partial'
  killed.mkdir()
  (killed / 'lock').touch()
  with pytest.raises(OSError, match='full'):
    new_run.write(
      tmp_path / 'out', trained.config, trained.corpus(), trained.params, trained.routing_state, 1, {'loss': 1.0}
    )
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match=r'cannot write .*file/out'):
    new_run.check_free(tmp_path / 'file' / 'out')


def test_what_a_killed_program_left_is_in_nobodys_way(tmp_path):
  left = tmp_path / f'.out.{os.getpid()}.partial'  # In a container the next program may have the same process id.
  left.mkdir()
  assert new_run._partial(tmp_path / 'out') not in (left, new_run._partial(tmp_path / 'out'))
  new_run.check_free(tmp_path / 'out')
  assert os.listdir(tmp_path) == [left.name]


def test_only_what_a_killed_program_left_is_removed(tmp_path):
  left, written, young, others = (
    tmp_path / name
    for name in ('.out.0123abcd.partial', '.out.4567cdef.partial', '.out.89abcdef.partial', '.in.01.partial')
  )
  for folder in (left, written, young, others):
    folder.mkdir()
  for folder in (left, written, others):
    (folder / 'lock').touch()
  with files.hold_lock(written / 'lock', InputError('in use')):
    new_run._remove_abandoned(tmp_path / 'out')
    assert sorted(tmp_path.iterdir()) == sorted([written, young, others])
