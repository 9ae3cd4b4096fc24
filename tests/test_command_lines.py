"""The programs as people run them: a run's files, exact resume, and one line for every mistake."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from trix_jax import checkpoints, inference, metrics, training

ROOT = pathlib.Path(__file__).parent.parent
TINY = [
  '--config=configs/smoke.py',
  '--config.corpus=file',
  '--config.model.layers=1',
  '--config.model.d_model=16',
  '--config.model.d_ff=32',
  '--config.model.context=32',
  '--config.sample_length=8',
  '--config.training.checkpoint_every=1',
]  # Saving takes long enough to be interrupted.


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  path = tmp_path_factory.mktemp('text') / 'text.txt'
  words = np.random.default_rng(0).choice(['to', 'be', 'or', 'not', 'that', 'is', '42', 'the', 'question.\n'], 3000)
  path.write_text(' '.join(words))
  return path


def command(program, *arguments):
  return [sys.executable, program, *map(str, arguments)]


@pytest.fixture(scope='module', autouse=True)
def compilation_cache(tmp_path_factory):
  """The programs compile the same few functions again and again."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path_factory.mktemp('cache')))
    patch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    yield


def environment():
  return {**os.environ, 'PYTHONUNBUFFERED': '1', 'JAX_NUM_CPU_DEVICES': '2'}


def run(program, *arguments):
  return subprocess.run(
    command(program, *arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600, check=False
  )


def train(text, workdir, *arguments):
  return run('train.py', *TINY, f'--config.file={text}', f'--workdir={workdir}', *arguments)


@pytest.fixture(scope='module')
def trained(text, tmp_path_factory):
  """A run from its first step to its last, undisturbed."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  result = train(text, workdir)
  assert result.returncode == 0, result.stderr
  return workdir, result.stdout


def state_of(workdir):
  config = json.loads((workdir / 'config.json').read_text())
  loaded = checkpoints.load_trained(workdir, 'last')
  assert config['training']['steps'] == loaded.step
  like = jax.eval_shape(lambda: training.init_state(loaded.config, loaded.model))
  return checkpoints.Checkpoints(workdir).restore('last', like)[0]


def rows_of(workdir):
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [{name: value for name, value in row.items() if name != 'tokens_per_second'} for row in rows]


def assert_same_run(workdir, other):
  jax.tree.map(np.testing.assert_array_equal, state_of(workdir), state_of(other))
  assert rows_of(workdir) == rows_of(other)


def test_a_run_leaves_the_files_it_promises(trained):
  workdir, output = trained
  assert set(json.loads((workdir / 'config.json').read_text())) >= {'seed', 'corpus', 'model', 'optimizer', 'training'}
  described = json.loads((workdir / 'run.json').read_text())
  assert set(described['parameters']) == {'total', 'routing', 'active_per_token'}
  assert described['routing_state'] == 0 and described['parameters']['routing'] == 0
  session = described['sessions'][0]
  assert session['versions']['jax'] == jax.__version__ and session['machine']['devices'] == 2
  assert 'train.py' in session['command']
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


def wait_for(condition, process):
  for _ in range(30_000):
    if condition():
      return
    if process.poll() is not None:
      raise AssertionError(f'ended early: {process.communicate()}')
    time.sleep(0.02)
  raise AssertionError('waited too long')


def interrupted(text, workdir, number, when, *arguments):
  """Start a training and send it a signal once `when()`; returns the finished process and what it said."""
  process = subprocess.Popen(
    command('train.py', *TINY, f'--config.file={text}', f'--workdir={workdir}', *arguments),
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  wait_for(when, process)
  process.send_signal(number)
  output = process.communicate(timeout=600)
  return process.returncode, ''.join(output)


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


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first_and_resumes_exactly(text, trained, tmp_path, number):
  workdir = tmp_path / 'stopped'
  path = workdir / 'metrics.jsonl'
  seldom = '--config.training.checkpoint_every=1000'  # So that what is saved was saved for the signal.
  code, output = interrupted(text, workdir, number, lambda: path.exists() and path.stat().st_size > 0, seldom)
  assert code == 128 + number
  stopped = re.search(rf'stopped by {number.name} at step (\d+), saved; run the same command to go on', output)
  assert stopped, output
  resumed = train(text, workdir, seldom)
  assert resumed.returncode == 0, resumed.stderr
  assert f'resuming from step {stopped[1]} of' in resumed.stdout
  assert_same_run(workdir, trained[0])


def test_evaluating_and_generating_from_a_run(text, trained):
  workdir, _ = trained
  result = run('eval_sparse.py', f'--workdir={workdir}', '--fit_gate', '--gate_steps=3', '--plot')
  assert result.returncode == 0, result.stderr
  rows = json.loads((workdir / 'eval_sparse_fitted_gate.json').read_text())
  assert [row['routing'] for row in rows] == ['dense', 'emergent', 'random', 'first', 'fitted_gate']
  assert all({'routing', 'backend', 'loss', 'perplexity', 'tile_load'} <= set(row) for row in rows)
  assert rows[1]['loss'] == pytest.approx(metrics.read_metrics(workdir, 'validation')[-1]['loss'], rel=1e-6)
  assert (workdir / 'eval_sparse_fitted_gate.png').read_bytes().startswith(b'\x89PNG')
  assert 'letter' in result.stdout and 'mutual information' in result.stdout
  first, second = (run('generate.py', f'--workdir={workdir}', '--prompt=to be', '--length=20').stdout for _ in range(2))
  assert first == second and first.startswith('to be') and len(first.rstrip('\n')) >= 20


@pytest.fixture(scope='module')
def exported(trained, tmp_path_factory):
  path = tmp_path_factory.mktemp('model') / 'model.safetensors'
  return path, run('-m', 'trix_jax.export', f'--workdir={trained[0]}', f'--out={path}')


def test_a_run_becomes_a_file_that_writes(trained, exported):
  path, result = exported
  assert result.returncode == 0, result.stderr
  assert f'{path.stat().st_size:,} bytes' in result.stdout and 'times smaller' in result.stdout
  written = run('generate.py', f'--model={path}', '--prompt=to be', '--length=70', '--temperature=0')
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
  result = run('eval_sparse.py', f'--workdir={workdir}', '--backend=packed')
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
  answers = run('-m', 'trix_jax.lookup', f'--workdir={trained[0]}', '--text=to be')
  assert answers.returncode == 0, answers.stderr
  header, *lines = answers.stdout.splitlines()
  assert header.split() == ['character', 'layer', '0:', 'tile,', 'margin']
  assert [line[:3] for line in lines] == ["'t'", "'o'", "' '", "'b'", "'e'"]
  tiles = [int(line[3:].split()[0]) for line in lines]
  assert all(0 <= int(tile) < 4 for tile in tiles) and all(0 <= float(line.split()[-1]) <= 1 for line in lines)
  cards = [
    run('-m', 'trix_jax.lookup', f'--workdir={trained[0]}', '--layer=0', f'--tile={tile}').stdout for tile in range(4)
  ]
  # Together they answer every character of the validation text.
  assert sum(float(re.search(r': ([\d.]+) % of characters', card)[1]) for card in cards) == pytest.approx(100, abs=0.1)
  assert "'t' " in cards[tiles[0]]
  for arguments, message in (
    (['--text=€'], "never seen: '€'"),
    (['--text='], 'has 0 characters'),
    (['--layer=0', '--tile=4'], 'tile 4 is not there; this model has tiles 0 to 3'),
    (['--layer=0'], 'give either --text'),
    ([], 'give either --text'),
  ):
    bad(run('-m', 'trix_jax.lookup', f'--workdir={trained[0]}', *arguments), message)


def test_experiments_on_a_trained_model(trained, tmp_path):
  out = tmp_path / 'out.json'
  result = run('experiments/without_tiles.py', f'--workdirs={trained[0]}', f'--out={out}')
  assert result.returncode == 0, result.stderr
  [row] = json.loads(out.read_text())
  assert row['loss'] == pytest.approx(metrics.read_metrics(trained[0], 'validation')[-1]['loss'], rel=1e-6)
  assert len(row['without_one']) == 4 and row['without_all'] != row['loss']
  assert len({row['loss'], row['without_all'], *row['without_one']}) == 6  # Every tile matters, each differently.
  bad(run('experiments/adaptive_tiles.py', f'--workdir={trained[0]}', f'--out={out}'), 'trained with model.top_k = 1')
  bad(run('experiments/without_tiles.py', '--workdirs=', f'--out={out}'), '--workdirs names no folder')
  assert len(json.loads(out.read_text())) == 1


@pytest.mark.parametrize(
  'program', ['without_tiles.py --workdirs=.', 'adaptive_tiles.py --workdir=.', 'residual_toy.py']
)
def test_results_that_cannot_be_written_are_found_before_the_work(program, tmp_path):
  name, *arguments = program.split()
  for out in (tmp_path, tmp_path / 'no' / 'out.json'):
    bad(run(f'experiments/{name}', *arguments, f'--out={out}'), f'cannot write {out}')
  if name == 'adaptive_tiles.py':
    image = tmp_path / 'no' / 'image.png'
    bad(run(f'experiments/{name}', *arguments, f'--out={tmp_path / "out.json"}', f'--image={image}'), f'write {image}')
  assert not any(tmp_path.iterdir())


def test_interrupting_text_ends_it_cleanly(exported):
  with subprocess.Popen(
    command('generate.py', f'--model={exported[0]}', '--length=100000000'),
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert len(process.stdout.read(500)) == 500
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
  assert process.returncode == 130
  rate, *interrupted = errors.split('\n', 1)
  assert 'characters a second, not counting the start' in rate and ''.join(interrupted).strip() == 'error: interrupted'


def restarted_and_listening(pid):
  """Whether a program is past the restart of `host.prepare_cpu` and its Python catches SIGINT."""
  folder = pathlib.Path('/proc') / str(pid)
  [caught] = re.findall(r'SigCgt:\s*(\w+)', (folder / 'status').read_text())
  return b'GLIBC_TUNABLES=' in (folder / 'environ').read_bytes() and int(caught, 16) >> (signal.SIGINT - 1) & 1


@pytest.mark.parametrize('seconds', [0.4, 0.8, 1.2, 1.6, 2.0])
def test_interrupting_imports_loading_or_compilation_ends_it_cleanly(exported, seconds, tmp_path):
  surroundings = {**environment(), 'JAX_COMPILATION_CACHE_DIR': str(tmp_path)}  # So that something is compiled.
  with subprocess.Popen(
    command('generate.py', f'--model={exported[0]}', '--length=100000000'),
    cwd=ROOT,
    env=surroundings,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    if sys.platform == 'linux':  # Until Python is up, which it is twice, nothing of ours can answer a signal.
      wait_for(lambda: restarted_and_listening(process.pid), process)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
  assert process.returncode == 130
  assert errors.strip().splitlines()[-1] == 'error: interrupted' and 'Traceback' not in errors


def test_mistakes_about_files_get_one_line(trained, exported, tmp_path):
  path = exported[0]
  bad(run('generate.py'), 'either --workdir', 'or --model')
  bad(run('generate.py', f'--model={path}', f'--workdir={trained[0]}'), 'either --workdir')
  bad(run('generate.py', f'--model={path}', '--checkpoint=last'), '--checkpoint chooses')
  bad(run('generate.py', f'--model={tmp_path / "none"}'), 'cannot read', 'trix_jax.export')
  bad(run('generate.py', f'--model={path}', '--prompt='), '--prompt is empty')
  bad(run('generate.py', '--model='), '--model is empty')
  bad(run('generate.py', f'--model={path}', '--length=-1'), 'length')
  bad(run('generate.py', f'--model={tmp_path}'), 'no ordinary file')
  bad(run('-m', 'trix_jax.export', f'--workdir={trained[0]}', '--out=.'), 'no ordinary file')
  (tmp_path / 'half').write_bytes(path.read_bytes()[:-100])
  bad(run('generate.py', f'--model={tmp_path / "half"}'), 'header: ')
  bad(run('-m', 'trix_jax.export', f'--workdir={trained[0]}', f'--out={tmp_path / "no" / "folder"}'), 'cannot write')
  bad(run('-m', 'trix_jax.export', f'--workdir={trained[0]}', '--out='), '--out is empty')
  bad(run('-m', 'trix_jax.export', f'--workdir={tmp_path}', f'--out={tmp_path / "model"}'), 'train.py')
  bad(run('eval_sparse.py', f'--workdir={trained[0]}', '--head=float32'), 'give --backend=packed')


def bad(result, *parts, code=2):
  assert result.returncode == code, result.stdout + result.stderr
  assert result.stderr.count('\n') == 1 and result.stderr.startswith('error: '), result.stderr
  for part in parts:
    assert part in result.stderr


def test_mistakes_on_the_command_line_get_one_line(text, trained, tmp_path):
  workdir = tmp_path / 'run'
  bad(train(text, workdir, '--config.sed=3'), 'sed', 'Did you mean "seed"')
  bad(train(text, workdir, '--config.training.steps=many'), 'config.training.steps=many')
  bad(run('train.py', '--config=configs/none.py', f'--workdir={workdir}'), 'configs/none.py')
  bad(run('train.py'), '--config')
  bad(run('train.py', *TINY, '--workdir='), '--workdir is empty')
  bad(train(text, workdir, '--config.model.tiles=5'), 'tiles = 5 does not divide')
  bad(train(text, workdir, '--config.corpus=shakespeare', '--config.file='), "'shakespeare'", 'tinyshakespeare')
  bad(train(text, workdir, '--config.model.context=100000'), 'context = 100000 needs at least 100001')
  assert not workdir.exists()
  bad(train(text, workdir, '--config.model={}'), 'config.model')
  bad(train(text, workdir, '--config.training.steps=100000000000000000000'), 'below 2**31')
  (tmp_path / 'plain.py').write_text('def get_config():\n  return {}\n')
  bad(run('train.py', f'--config={tmp_path / "plain.py"}', f'--workdir={workdir}'), 'a dict')
  bad(run('generate.py', f'--workdir={trained[0]}', '--prompt=¿?'), "'¿'")
  bad(run('eval_sparse.py', f'--workdir={trained[0]}', '--file='), '--file is empty')
  bad(run('generate.py', f'--workdir={workdir}'), 'train.py')


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


def test_a_profile_is_written_even_by_a_short_run(text, tmp_path):
  assert train(text, tmp_path / 'run', '--config.training.steps=3', '--config.profile').returncode == 0
  assert any(path.is_file() for path in (tmp_path / 'run' / 'profile').rglob('*'))


def test_a_damaged_or_missing_checkpoint_is_named(text, tmp_path):
  workdir = tmp_path / 'run'
  assert train(text, workdir, '--config.training.steps=2').returncode == 0
  for path in (workdir / 'checkpoints' / 'last' / '2').rglob('*'):
    if path.is_file() and path.stat().st_size > 200:
      path.write_bytes(path.read_bytes()[:100])
  bad(train(text, workdir, '--config.training.steps=2'), 'checkpoints/last/2 cannot be read', 'move this folder away')
  bad(run('eval_sparse.py', f'--workdir={workdir}', '--checkpoint=last'), 'checkpoints/last/2 cannot be read')
  shutil.rmtree(workdir / 'checkpoints' / 'last')
  before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
  bad(train(text, workdir, '--config.training.steps=2'), 'reached step 2', 'no checkpoint to go on from')
  assert {path: path.read_bytes() for path in before} == before
  shutil.rmtree(workdir / 'checkpoints' / 'best')
  bad(run('eval_sparse.py', f'--workdir={workdir}'), 'there is no checkpoint in')


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


def test_a_disk_that_takes_no_more_loses_nothing(text, trained, tmp_path):
  workdir = tmp_path / 'run'
  result = subprocess.run(
    [
      'sh',
      '-c',
      'ulimit -f 8; exec "$@"',
      'sh',  # Files of at most 4 KiB.
      *command('train.py', *TINY, f'--config.file={text}', f'--workdir={workdir}'),
    ],
    cwd=ROOT,
    env={**environment(), 'JAX_ENABLE_COMPILATION_CACHE': 'false'},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert result.returncode == 1
  # Threads of Orbax may say more, even in the middle of the line, but this says what to do.
  assert re.search('error: cannot write .*there is room', result.stderr), result.stderr
  assert train(text, workdir).returncode == 0
  assert_same_run(workdir, trained[0])


def test_a_workdir_that_may_only_be_read_is_left_alone(text, trained, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(trained[0], workdir)
  for path in (workdir, *workdir.rglob('*')):
    path.chmod(0o555 if path.is_dir() else 0o444)
  # Root may write everywhere, unless it gives up that power (with setpriv, of util-linux or busybox).
  ordinary = [] if os.geteuid() else ['setpriv', '--bounding-set=-dac_override', '--inh-caps=-dac_override']

  def run_ordinary(program, *arguments):
    return subprocess.run(
      [*ordinary, *command(program, *arguments)],
      cwd=ROOT,
      env=environment(),
      capture_output=True,
      text=True,
      timeout=600,
      check=False,
    )

  before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
  bad(run_ordinary('train.py', *TINY, f'--config.file={text}', f'--workdir={workdir}'), 'cannot write to workdir')
  result = run_ordinary('eval_sparse.py', f'--workdir={workdir}')
  bad(result, 'cannot write', 'eval_sparse.json')
  assert 'perplexity' in result.stdout
  assert {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()} == before


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
  ]
  result = train(text, tmp_path / 'run', *settings)
  assert result.returncode == 0, result.stderr
  # Nothing was learned, so all that it has is what it started from.
  losses = [row['loss'] for row in metrics.read_metrics(tmp_path / 'run', 'validation')]
  np.testing.assert_allclose(losses, first.validation_loss, rtol=1e-6)
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
