"""`trix carve` leaves the folder of a run, which every other program takes."""

import json

import pytest
from programs import bad, run, train

from trix_jax.cli import carve, new_run
from trix_jax.errors import InputError

pytestmark = pytest.mark.slow
DENSE = ('--config.model.routing=dense', '--config.model.gate=one_hot', '--config.loss.balance_weight=0')
CARVED = ('--tiles=16', '--top_k=4')


@pytest.fixture(scope='module')
def dense(text, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('dense') / 'run'
  result = train(text, workdir, *DENSE)
  assert result.returncode == 0, result.stderr
  return workdir


@pytest.fixture(scope='module')
def carved(dense, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('carved') / 'run'
  result = run('carve', f'--workdir={dense}', f'--out={workdir}', *CARVED)
  assert result.returncode == 0, result.stderr
  return workdir, result.stdout


def test_a_carved_run_says_what_it_loses_and_costs(carved):
  workdir, output = carved
  assert '4 of 16 tiles' in output and '% of the products' in output
  (row,) = json.loads((workdir / 'eval_sparse.json').read_text())
  assert f'{row["loss"]:.4f}' in output
  described = json.loads((workdir / 'run.json').read_text())
  assert described['command'].startswith('trix carve --workdir=')


def test_a_carved_run_evaluates_generates_packs_and_trains_on(text, carved, tmp_path):
  workdir, _ = carved
  result = run('eval', f'--workdir={workdir}', '--backend=packed')
  assert result.returncode == 0 and 'emergent' in result.stdout, result.stderr
  assert run('generate', f'--workdir={workdir}', '--prompt=the ', '--length=8').returncode == 0
  assert run('export', f'--workdir={workdir}', f'--out={tmp_path / "model.safetensors"}').returncode == 0
  result = train(
    text,
    tmp_path / 'on',
    f'--config.training.start_from={workdir}',
    '--config.model.tiles=16',
    '--config.model.top_k=4',
    '--config.model.gate=one_hot',
  )
  assert result.returncode == 0, result.stderr


def test_a_run_is_never_carved_over_another(dense, carved):
  workdir, _ = carved
  before = (workdir / 'config.json').read_bytes()
  for out in (workdir, dense):
    bad(run('carve', f'--workdir={dense}', f'--out={out}', '--tiles=8', '--top_k=2'), 'holds a run already')
  assert (workdir / 'config.json').read_bytes() == before


def test_a_run_that_another_program_wrote_meanwhile_stays(dense, carved, monkeypatch):
  workdir, _ = carved
  before = sorted(workdir.parent.iterdir()), (workdir / 'config.json').read_bytes()
  monkeypatch.setattr(new_run, 'check_free', lambda *_: None)  # It was free then.
  carve.FLAGS(['carve', f'--workdir={dense}', f'--out={workdir}', *CARVED])
  with pytest.raises(InputError, match=r'cannot write .*; choose another --out'):
    carve.main()
  assert (sorted(workdir.parent.iterdir()), (workdir / 'config.json').read_bytes()) == before


def test_what_cannot_be_carved_leaves_no_folder(carved, dense, tmp_path):
  out = tmp_path / 'out'
  bad(run('carve', f'--workdir={carved[0]}', f'--out={out}', *CARVED), 'computes all its tiles alike')
  bad(run('carve', f'--workdir={dense}', f'--out={out}', '--tiles=7', '--top_k=2'), 'does not divide')
  bad(run('carve', f'--workdir={dense}', '--out=', *CARVED), '--out is empty')
  assert not out.exists()


@pytest.mark.parametrize(
  'numbers', [('--tiles=0', '--top_k=1'), ('--tiles=7', '--top_k=2'), ('--tiles=8', '--top_k=9')]
)
def test_numbers_that_do_not_fit_are_refused_before_the_checkpoint_is_read(dense, tmp_path, monkeypatch, numbers):
  monkeypatch.setattr(new_run, 'load_source', lambda *_: pytest.fail('the checkpoint was read'))
  carve.FLAGS(['carve', f'--workdir={dense}', f'--out={tmp_path / "out"}', *numbers])
  with pytest.raises(InputError, match=r'tiles|top_k'):
    carve.main()
