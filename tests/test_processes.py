"""The programs as processes of their own: signals, full disks and what each leaves behind.

All are slow: a process takes as long to start as a model takes to train here.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import programs
import pytest
from programs import ROOT, TINY, assert_same_run, bad, command, environment, interrupted, run_process, wait_for

from trix_jax.runs import metrics

SCRIPTS = ('train.py', 'eval_sparse.py', 'generate.py', '-m trix_jax.export', '-m trix_jax.lookup')


def train(text, workdir, *arguments, **options):
  return run_process('train.py', *TINY, f'--config.file={text}', f'--workdir={workdir}', *arguments, **options)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first_and_resumes_exactly(text, trained, tmp_path, number):
  workdir = tmp_path / 'stopped'
  path = workdir / 'metrics.jsonl'
  seldom = '--config.training.checkpoint_every=1000'  # So that what is saved was saved for the signal.
  code, output = interrupted(text, workdir, number, lambda: path.exists() and path.stat().st_size > 0, seldom)
  assert code == 128 + number
  stopped = re.search(rf'stopped by {number.name} at step (\d+), saved; run the same command to go on', output)
  assert stopped, output
  resumed = programs.train(text, workdir, seldom)
  assert resumed.returncode == 0, resumed.stderr
  assert f'resuming from step {stopped[1]} of' in resumed.stdout
  assert_same_run(workdir, trained[0])


@pytest.mark.slow
def test_experiments_on_a_trained_model(trained, tmp_path):
  out = tmp_path / 'out.json'
  result = run_process('experiments/single/without_tiles.py', f'--workdirs={trained[0]}', f'--out={out}')
  assert result.returncode == 0, result.stderr
  [row] = json.loads(out.read_text())
  assert row['loss'] == pytest.approx(metrics.read_metrics(trained[0], 'validation')[-1]['loss'], rel=1e-6)
  assert len(row['without_one']) == 4 and row['without_all'] != row['loss']
  assert len({row['loss'], row['without_all'], *row['without_one']}) == 6  # Every tile matters, each differently.
  bad(
    run_process('experiments/single/adaptive_tiles.py', f'--workdir={trained[0]}', f'--out={out}'),
    'trained with model.top_k = 1',
  )
  bad(run_process('experiments/single/without_tiles.py', '--workdirs=', f'--out={out}'), '--workdirs names no folder')
  assert len(json.loads(out.read_text())) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
  'program', ['single/without_tiles.py --workdirs=.', 'single/adaptive_tiles.py --workdir=.', 'single/residual_toy.py']
)
def test_results_that_cannot_be_written_are_found_before_the_work(program, tmp_path):
  name, *arguments = program.split()
  for out in (tmp_path, tmp_path / 'no' / 'out.json'):
    bad(run_process(f'experiments/{name}', *arguments, f'--out={out}'), f'cannot write {out}')
  if name == 'single/adaptive_tiles.py':
    image = tmp_path / 'no' / 'image.png'
    bad(
      run_process(f'experiments/{name}', *arguments, f'--out={tmp_path / "out.json"}', f'--image={image}'),
      f'write {image}',
    )
  assert not any(tmp_path.iterdir())


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_disk_that_takes_no_more_loses_nothing(text, trained, tmp_path):
  workdir = tmp_path / 'run'
  limited = ('sh', '-c', 'ulimit -f 8; exec "$@"', 'sh')  # Files of at most 4 KiB.
  result = train(text, workdir, prefix=limited, JAX_ENABLE_COMPILATION_CACHE='false')
  assert result.returncode == 1
  # Threads of Orbax may say more, even in the middle of the line, but this says what to do.
  assert re.search('error: cannot write .*there is room', result.stderr), result.stderr
  assert train(text, workdir).returncode == 0
  assert_same_run(workdir, trained[0])


@pytest.mark.slow
def test_a_workdir_that_may_only_be_read_is_left_alone(text, trained, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(trained[0], workdir)
  for path in (workdir, *workdir.rglob('*')):
    path.chmod(0o555 if path.is_dir() else 0o444)
  # Root may write everywhere, unless it gives up that power (with setpriv, of util-linux or busybox).
  ordinary = [] if os.geteuid() else ['setpriv', '--bounding-set=-dac_override', '--inh-caps=-dac_override']

  before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
  bad(train(text, workdir, prefix=ordinary), 'cannot write to workdir')
  result = run_process('eval_sparse.py', f'--workdir={workdir}', prefix=ordinary)
  bad(result, 'cannot write', 'eval_sparse.json')
  assert 'perplexity' in result.stdout
  assert {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize('script', SCRIPTS)
def test_scripts_are_the_programs(script):
  result = run_process(*script.split(), '--help')
  assert result.returncode == 0 and '\n  trix ' in result.stdout and '--workdir: ' in result.stdout, result.stderr
  bad(run_process(*script.split(), '--nonsense'), 'nonsense', '--help')


@pytest.mark.slow
def test_variables_of_jax_that_cannot_be_get_one_line():
  model = '--model=models/shakespeare.safetensors'
  bad(run_process('generate.py', model, JAX_NUM_CPU_DEVICES='abc'), 'JAX_NUM_CPU_DEVICES=abc is no number of devices')
  bad(run_process('generate.py', model, JAX_PLATFORMS='bogus'), 'cannot start with JAX_PLATFORMS=bogus', code=1)


@pytest.mark.slow
@pytest.mark.parametrize('asked', ['--help', '-h', 'help'])
def test_experiments_explain_themselves(asked):
  result = run_process('-m', 'experiments.run', asked)
  assert result.returncode == 0 and not result.stderr, result.stderr
  assert result.stdout.startswith('Run suites: ') and '\n  --budget: ' in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize('script', [*SCRIPTS[:3], '-m experiments.run', 'experiments/single/without_tiles.py'])
def test_an_unknown_kernel_path_gets_one_line(script):
  bad(run_process(*script.split(), TRIX_KERNEL='bogus'), 'TRIX_KERNEL=bogus is not possible here; choose')
