"""The programs, run in this process: what they leave, and one line for every mistake."""

import json
import re
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from programs import ROOT, TINY, assert_same_run, bad, interrupted, rows_of, run, train

from trix_jax import inference
from trix_jax.cli import arguments, launcher
from trix_jax.runs import checkpoints, metrics


def test_a_run_leaves_the_files_it_promises(trained):
  workdir, output = trained
  assert set(json.loads((workdir / 'config.json').read_text())) >= {'seed', 'corpus', 'model', 'optimizer', 'training'}
  described = json.loads((workdir / 'run.json').read_text())
  assert set(described['parameters']) == {'total', 'routing', 'active_per_token'}
  assert described['routing_state'] == 0 and described['parameters']['routing'] == 0
  session = described['sessions'][0]
  assert session['versions']['jax'] == jax.__version__ and session['machine']['devices'] == 2
  assert session['command'].startswith('trix train --config=smoke')
  assert list((workdir / 'tensorboard').iterdir())
  promised = {
    'step',
    'loss',
    'perplexity',
    'bits_per_char',
    'tile_load',
    'routing_entropy',
    'signature_diversity',
    'dead_tiles',
  }
  rows = metrics.read_metrics(workdir, 'train')
  assert [row['step'] for row in rows] == [2, 4, 6, 8, 10, 12]
  assert promised | {'learning_rate', 'grad_norm', 'tokens_per_second'} <= set(rows[0])
  rows = metrics.read_metrics(workdir, 'validation')
  assert [row['step'] for row in rows] == [6, 12]
  assert promised <= set(rows[0]) and len(rows[0]['tile_load']) == 1 and len(rows[0]['tile_load'][0]) == 4
  for word in ('dense', 'emergent', 'random', 'first', 'tile load', 'sample', 'tokens/s', 'left'):
    assert word in output


def test_a_finished_run_trains_no_more(text, trained):
  workdir, _ = trained
  before = rows_of(workdir)
  result = train(text, workdir)
  assert result.returncode == 0 and 'resuming from step 12 of 12' in result.stdout and 'emergent' in result.stdout
  assert rows_of(workdir) == before


def test_kill_minus_9_after_a_checkpoint_and_resume_ends_with_the_same_bits(text, trained, tmp_path):
  workdir = tmp_path / 'killed'
  folder = workdir / 'checkpoints' / 'last'
  code, _ = interrupted(
    text, workdir, signal.SIGKILL, lambda: any(path.name.isdigit() and int(path.name) >= 4 for path in folder.glob('*'))
  )
  assert code == -signal.SIGKILL
  with (workdir / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 99, "split": "train", "loss": 1.0}\n{"step": 99, "spl')  # Rows the resumed run must cut.
  result = train(text, workdir)
  assert result.returncode == 0, result.stderr
  assert 'resuming from step' in result.stdout
  assert_same_run(workdir, trained[0])


@pytest.mark.slow
def test_evaluating_and_generating_from_a_run(text, trained):
  workdir, _ = trained
  result = run('eval', f'--workdir={workdir}', '--fit_gate', '--gate_steps=3', '--plot')
  assert result.returncode == 0, result.stderr
  rows = json.loads((workdir / 'eval_sparse_fitted_gate_3_steps.json').read_text())
  assert [row['routing'] for row in rows] == ['dense', 'emergent', 'random', 'first', 'fitted_gate']
  assert all({'routing', 'backend', 'loss', 'perplexity', 'tile_load'} <= set(row) for row in rows)
  assert rows[1]['loss'] == pytest.approx(metrics.read_metrics(workdir, 'validation')[-1]['loss'], rel=1e-6)
  assert (workdir / 'eval_sparse_fitted_gate_3_steps.png').read_bytes().startswith(b'\x89PNG')
  assert 'letter' in result.stdout and 'mutual information' in result.stdout
  first, second = (run('generate', f'--workdir={workdir}', '--prompt=to be', '--length=20').stdout for _ in range(2))
  assert first == second and first.startswith('to be') and len(first.rstrip('\n')) >= 20


def test_a_run_becomes_a_file_that_writes(trained, exported):
  path, result = exported
  assert result.returncode == 0, result.stderr
  assert f'{path.stat().st_size:,} bytes' in result.stdout and 'times smaller' in result.stdout
  written = run('generate', f'--model={path}', '--prompt=to be', '--length=70', '--temperature=0')
  assert written.returncode == 0 and written.stdout.startswith('to be'), written.stderr
  assert len(written.stdout) == len('to be') + 70 + 1 and 'too few to tell' in written.stderr
  model = inference.load(path)
  assert written.stdout == f'to be{model.generate(["to be"], 70, temperature=0.0)[0]}\n'
  assert model.provenance['step'] == 12 and model.provenance['corpus']['name'] == 'file'
  assert model.provenance['best_validation_loss'] == pytest.approx(
    metrics.read_metrics(trained[0], 'validation')[-1]['loss']
  )


def test_evaluating_the_packed_model(trained, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(trained[0], workdir)
  result = run('eval', f'--workdir={workdir}', '--backend=packed')
  assert result.returncode == 0 and 'packed, attention int8' in result.stdout, result.stderr
  written = json.loads((workdir / 'eval_sparse_packed.json').read_text())
  rows = {(row['backend'], row['routing']): row for row in written}
  assert [routing for backend, routing in rows if backend == 'packed'] == ['dense', 'emergent', 'first']
  for routing in ('dense', 'emergent', 'first'):
    packed, xla = rows['packed', routing], rows['xla', routing]
    assert packed['loss_difference'] == packed['loss'] - xla['loss'] and abs(packed['loss_difference']) < 0.01
    assert np.max(packed['tile_disagreement']) < 0.03
    np.testing.assert_allclose(packed['tile_load'], xla['tile_load'], atol=0.03)
  assert rows['packed', 'dense']['tile_disagreement'] == rows['packed', 'first']['tile_disagreement'] == [0.0]


def test_looking_tiles_up(trained):
  answers = run('lookup', f'--workdir={trained[0]}', '--text=to be')
  assert answers.returncode == 0, answers.stderr
  header, *lines = answers.stdout.splitlines()
  assert header.split() == ['character', 'layer', '0:', 'tile,', 'margin']
  assert [line[:3] for line in lines] == ["'t'", "'o'", "' '", "'b'", "'e'"]
  tiles = [int(line[3:].split()[0]) for line in lines]
  assert all(0 <= int(tile) < 4 for tile in tiles) and all(0 <= float(line.split()[-1]) <= 1 for line in lines)
  cards = [run('lookup', f'--workdir={trained[0]}', '--layer=0', f'--tile={tile}').stdout for tile in range(4)]
  # Together they answer every character of the validation text.
  assert sum(float(re.search(r': ([\d.]+) % of characters', card)[1]) for card in cards) == pytest.approx(100, abs=0.1)
  assert "'t' " in cards[tiles[0]]
  for wrong, message in (
    (['--text=€'], "never seen: '€'"),
    (['--text='], 'has 0 characters'),
    (['--layer=0', '--tile=4'], 'tile 4 is not there; this model has tiles 0 to 3'),
    (['--layer=0'], 'give one of --text'),
    ([], 'give one of --text'),
    (['--text=to', '--addresses'], 'give one of --text'),
    (['--addresses'], 'needs model.address=token'),
    (['--text=to', '--plot=map.png'], 'give --addresses too'),
    (['--addresses', '--plot='], '--plot is empty; give the path of a picture'),
    (['--addresses', '--plot=map.docx'], 'map.docx is no picture; let it end in one of '),
    (['--addresses', '--plot=none/map.png'], 'cannot write none/map.png'),
  ):
    bad(run('lookup', f'--workdir={trained[0]}', *wrong), message)


def test_mistakes_about_files_get_one_line(trained, exported, tmp_path):
  path = exported[0]
  bad(run('generate'), 'either --workdir', 'or --model')
  bad(run('generate', f'--model={path}', f'--workdir={trained[0]}'), 'either --workdir')
  bad(run('generate', f'--model={path}', '--checkpoint=last'), '--checkpoint chooses')
  bad(run('generate', f'--model={tmp_path / "none"}'), 'cannot read', 'trix export')
  bad(run('generate', f'--model={path}', '--prompt='), '--prompt is empty')
  bad(run('generate', '--model='), '--model is empty')
  bad(run('generate', f'--model={path}', '--length=-1'), 'length')
  bad(run('generate', f'--model={tmp_path}'), 'no ordinary file')
  bad(run('export', f'--workdir={trained[0]}', '--out=.'), 'no ordinary file')
  (tmp_path / 'half').write_bytes(path.read_bytes()[:-100])
  bad(run('generate', f'--model={tmp_path / "half"}'), 'header: ')
  bad(run('export', f'--workdir={trained[0]}', f'--out={tmp_path / "no" / "folder"}'), 'cannot write')
  bad(run('export', f'--workdir={trained[0]}', '--out='), '--out is empty')
  own = trained[0] / 'config.json'
  before = own.read_text()
  bad(run('export', f'--workdir={trained[0]}', f'--out={own}'), 'may be a file of the run itself')
  assert own.read_text() == before
  bad(run('export', f'--workdir={tmp_path}', f'--out={tmp_path / "model"}'), 'the folder of a run')
  bad(run('eval', f'--workdir={trained[0]}', '--head=float32'), 'give --backend=packed')


def test_mistakes_on_the_command_line_get_one_line(text, trained, tmp_path):
  workdir = tmp_path / 'run'
  bad(train(text, workdir, '--config.sed=3'), "no setting 'sed'; did you mean 'seed'?")
  bad(train(text, workdir, '--config.training.steps=many'), 'config.training.steps=many')
  bad(run('train', '--config=configs/none.py', f'--workdir={workdir}'), 'configs/none.py')
  bad(run('train'), '--config')
  bad(run('train', *TINY, '--workdir='), '--workdir is empty')
  bad(train(text, workdir, '--config.model.tiles=5'), 'tiles = 5 does not divide')
  bad(train(text, workdir, '--config.corpus=shakespeare', '--config.file='), "'shakespeare'", 'tinyshakespeare')
  bad(train(text, workdir, '--config.model.context=100000'), 'context = 100000 needs at least 100001')
  assert not workdir.exists()
  bad(train(text, workdir, '--config.model={}'), 'config.model')
  bad(train(text, workdir, '--config.training.steps=100000000000000000000'), 'below 2**31')
  (tmp_path / 'plain.py').write_text('def get_config():\n  return {}\n')
  bad(run('train', f'--config={tmp_path / "plain.py"}', f'--workdir={workdir}'), 'a dict')
  bad(run('generate', f'--workdir={trained[0]}', '--prompt=¿?'), "'¿'")
  bad(run('eval', f'--workdir={trained[0]}', '--file='), '--file is empty')
  bad(run('generate', f'--workdir={workdir}'), 'the folder of a run')


def test_a_workdir_of_another_config_or_text_is_left_alone(text, trained, tmp_path):
  workdir, _ = trained
  before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
  bad(train(text, workdir, '--config.seed=1', '--config.model.tiles=8'), 'model.tiles: 4 -> 8', 'seed: 0 -> 1')
  content = text.read_text()
  for changed in (content + 'to be', content + 'a new character: ~'):
    text.write_text(changed)
    bad(train(text, workdir), 'another text')
  text.write_text(content)
  assert {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()} == before


@pytest.mark.slow
def test_a_profile_is_written_even_by_a_short_run(text, tmp_path):
  assert train(text, tmp_path / 'run', '--config.training.steps=3', '--config.profile').returncode == 0
  assert any(path.is_file() for path in (tmp_path / 'run' / 'profile').rglob('*'))


@pytest.mark.slow
def test_a_damaged_or_missing_checkpoint_is_named(text, tmp_path):
  workdir = tmp_path / 'run'
  assert train(text, workdir, '--config.training.steps=2').returncode == 0
  for path in (workdir / 'checkpoints' / 'last' / '2').rglob('*'):
    if path.is_file() and path.stat().st_size > 200:
      path.write_bytes(path.read_bytes()[:100])
  bad(train(text, workdir, '--config.training.steps=2'), 'checkpoints/last/2 cannot be read', 'move this folder away')
  bad(run('eval', f'--workdir={workdir}', '--checkpoint=last'), 'checkpoints/last/2 cannot be read')
  shutil.rmtree(workdir / 'checkpoints' / 'last')
  before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
  bad(train(text, workdir, '--config.training.steps=2'), 'reached step 2', 'no checkpoint to go on from')
  assert {path: path.read_bytes() for path in before} == before
  shutil.rmtree(workdir / 'checkpoints' / 'best')
  bad(run('eval', f'--workdir={workdir}'), 'there is no checkpoint in')


def test_a_finished_run_without_its_best_checkpoint_ends_with_the_last(text, trained, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(trained[0], workdir)
  shutil.rmtree(workdir / 'checkpoints' / 'best')
  with (workdir / 'metrics.jsonl').open('ab') as file:
    file.write(b'{"step": "x", "split": "train"}\n\xff\n')  # Neither is a row.
  result = train(text, workdir)
  assert result.returncode == 0 and 'last checkpoint, of step 12' in result.stdout, result.stderr
  assert rows_of(workdir) == rows_of(trained[0])


def test_a_workdir_that_cannot_be_written_is_named(text, tmp_path):
  (tmp_path / 'file').write_text('')
  bad(train(text, tmp_path / 'file'), 'cannot write to workdir')
  bad(train(text, '/proc/run'), 'cannot write to workdir /proc/run')  # Read-only for root too.


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_naming_step_and_tensor(text, tmp_path):
  result = train(
    text,
    tmp_path / 'run',
    '--config.optimizer.learning_rate=1e15',
    '--config.optimizer.clip_norm=1e30',
    '--config.optimizer.name=adamw',
    '--config.optimizer.warmup_fraction=0',
  )
  bad(result, 'not finite at step ', 'is intact', 'learning_rate', code=1)
  assert re.search(r'at step \d+: (activation|gradient of) \w', result.stderr)
  assert 'NaN' not in (tmp_path / 'run' / 'metrics.jsonl').read_text()
  # An update that overflows is caught in its own step, before it is saved.
  result = train(
    text,
    tmp_path / 'sudden',
    '--config.optimizer.learning_rate=1e38',
    '--config.optimizer.name=adamw',
    '--config.optimizer.warmup_fraction=0',
    '--config.training.steps=1',
  )
  bad(result, 'not finite at step 1: the norm of the parameters after the update', 'nothing was saved', code=1)


@pytest.mark.slow
def test_a_run_that_starts_from_another_and_learns_from_it(text, trained, tmp_path):
  first = checkpoints.load_trained(trained[0], 'best')
  settings = [
    f'--config.training.start_from={trained[0]}',
    f'--config.loss.teacher={trained[0]}',
    '--config.training.keep_checkpoints=3',
    '--config.training.steps=4',
    '--config.training.eval_every=1',
    '--config.optimizer.learning_rate=0',
    '--config.optimizer.adam_learning_rate=0',
    '--config.model.dropout=0',
    '--config.training.log_every=1',
  ]
  result = train(text, tmp_path / 'run', *settings)
  assert result.returncode == 0, result.stderr
  # Nothing was learned, so all that it has is what it started from.
  losses = [row['loss'] for row in metrics.read_metrics(tmp_path / 'run', 'validation')]
  np.testing.assert_allclose(losses, first.validation_loss, rtol=1e-6)
  # Every step has windows of its own.
  assert len({row['loss'] for row in metrics.read_metrics(tmp_path / 'run', 'train')}) == 4
  assert checkpoints.Checkpoints(tmp_path / 'run', read_only=True).steps('last') == [2, 3, 4]
  assert [checkpoints.load_trained(tmp_path / 'run', 'last', step).step for step in (2, 4)] == [2, 4]
  assert checkpoints.Checkpoints(tmp_path / 'none', read_only=True).steps('last') == []
  bad(train(text, tmp_path / 'wide', *settings, '--config.model.d_ff=64'), 'is another one (d_ff')
  (tmp_path / 'other.txt').write_text('0123456789' * 1000)
  bad(train(tmp_path / 'other.txt', tmp_path / 'other', *settings[1:]), 'was trained on another vocabulary')
  bad(train(text, tmp_path / 'none', f'--config.training.start_from={tmp_path}'), 'config.training.start_from: cannot')
  # Nothing was done there, so that the command may be put right.
  result = train(text, tmp_path / 'none', f'--config.training.start_from={trained[0]}', '--config.training.steps=1')
  assert result.returncode == 0, result.stderr


def test_trix_names_its_programs(capsys, monkeypatch):
  for asked in ([], ['help'], ['--help']):
    monkeypatch.setattr(sys, 'argv', ['anything', *asked])
    launcher.trix()
    said = capsys.readouterr().out
    assert all(f'\n  {name} ' in said for name in launcher.PROGRAMS) and 'trix train --config=quickstart' in said
  monkeypatch.setattr(sys, 'argv', ['trix', 'trian'])
  with pytest.raises(SystemExit) as left:
    launcher.trix()
  assert left.value.code == 2 and "no program 'trian'; choose one of train, eval" in capsys.readouterr().err


@pytest.mark.parametrize('name', launcher.PROGRAMS)
def test_help_teaches(name):
  result = run(name, '--help')
  assert result.returncode == 0 and f'\n  trix {name} --' in result.stdout and '\n  --workdir: ' in result.stdout


def test_help_may_be_a_value(exported):
  result = run('generate', f'--model={exported[0]}', '--prompt', 'not', '--length=3')
  assert result.returncode == 0 and result.stdout.startswith('not')
  bad(run('generate', f'--model={exported[0]}', '--prompt', 'help!', '--length=3'), "'!'")
  assert 'Flags:' not in run('generate', f'--model={exported[0]}', '--prompt', 'help').stdout
  assert 'Flags:' in run('generate', '--prompt=it', '--help').stdout


def test_configs_that_are_none_get_one_line(tmp_path):
  workdir = f'--workdir={tmp_path / "run"}'
  bad(run('train', '--config=', workdir), '--config= is empty', 'quickstart')
  bad(run('train', f'--config={tmp_path}', workdir), 'is a folder', 'quickstart')
  bad(run('train', '--config=smoke', '--config.nonsense=1', workdir), "no setting 'nonsense'")
  (tmp_path / 'raises.py').write_text('def get_config():\n  raise ValueError("two is not one")\n')
  bad(run('train', f'--config={tmp_path / "raises.py"}', workdir), 'two is not one')


def test_a_config_has_a_name_and_a_path(tmp_path):
  names = {path.stem for path in (ROOT / 'configs').glob('*.py')}
  assert names == set(arguments.shipped_configs()) and {'quickstart', 'sparse'} <= names
  assert all(name in run('train', '--help').stdout for name in names)
  bad(run('train', '--config=sprase', f'--workdir={tmp_path / "run"}'), "'sprase'", 'quickstart', 'sparse')
