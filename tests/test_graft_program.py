"""`trix graft` leaves the folder of a run that every other program takes, and that knows the origin of its tiles."""

import json
import re

import numpy as np
import pytest
from programs import bad, run, train

from trix_jax import inference
from trix_jax.data import corpora
from trix_jax.runs import checkpoints, origins

pytestmark = pytest.mark.slow
BYTES = ('--config.tokenizer=byte', '--config.model.gate=one_hot')
ONE_TILE = (
  '--config.model.tiles=1',
  '--config.model.d_ff=8',
  '--config.model.routing=dense',
  '--config.loss.balance_weight=0',
)


@pytest.fixture(scope='module')
def host(text, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('host') / 'run'
  result = train(text, workdir, *BYTES)
  assert result.returncode == 0, result.stderr
  return workdir


@pytest.fixture(scope='module')
def donor(host, tmp_path_factory):
  folder = tmp_path_factory.mktemp('donor')
  text = folder / 'german.txt'
  text.write_text('Das Wörterbuch hört über Ähnliches nichts. ' * 300)  # Characters that the host's text lacks.
  alone = (f'--config.training.start_from={host}', '--config.training.train_only=tiles')
  result = train(text, folder / 'run', *BYTES, *ONE_TILE, *alone)
  assert result.returncode == 0, result.stderr
  return folder / 'run'


@pytest.fixture(scope='module')
def grafted(host, donor, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('grafted') / 'run'
  result = run('graft', f'--workdir={host}', f'--donors={donor},{donor}', f'--out={workdir}')
  assert result.returncode == 0, result.stderr
  return workdir, result.stdout


def test_a_donor_leaves_its_host_as_it_is(host, donor):
  first, second = (checkpoints.load_trained(folder, 'best').params for folder in (host, donor))
  np.testing.assert_array_equal(first['embedding']['embedding'], second['embedding']['embedding'])
  assert second['layer_0']['ffn']['up'].shape == (1, 16, 8)


def test_a_graft_says_what_it_recovers_and_costs(grafted):
  workdir, output = grafted
  assert 'F = ' in output and len(re.findall(r'german\.txt .* (?:R = -?\d|no R: its own)', output)) == 2
  assert '6 tiles in each layer, 4 of them of the host' in output
  (row,) = json.loads((workdir / 'eval_sparse.json').read_text())
  assert f'{row["loss"]:.4f}' in output and len(row['tile_load'][0]) == 6


def test_a_grafted_run_evaluates_generates_and_packs_with_its_origin(grafted, tmp_path):
  workdir, _ = grafted
  result = run('eval', f'--workdir={workdir}', '--backend=packed')
  assert result.returncode == 0 and 'emergent' in result.stdout, result.stderr
  assert run('generate', f'--workdir={workdir}', '--prompt=über ', '--length=8').returncode == 0
  path = tmp_path / 'model.safetensors'
  assert run('export', f'--workdir={workdir}', f'--out={path}').returncode == 0
  packed, trained = inference.load(path), checkpoints.load_trained(workdir, 'best')
  others = packed.provenance['tiles_of_other_runs']
  assert [(of['tiles'], of['text']) for of in others] == [([[4]], 'german.txt'), ([[5]], 'german.txt')]
  assert others == origins.of_run(trained) and packed.vocabulary == corpora.BYTES
  again = inference.from_checkpoint(trained)
  assert again.arrays.keys() == packed.arrays.keys()
  for name, array in again.arrays.items():
    np.testing.assert_array_equal(packed.arrays[name], array)
  tokens = packed.encode('Wörter über')[None]
  np.testing.assert_array_equal(packed.logits(tokens), again.logits(tokens))
  assert run('generate', f'--model={path}', '--prompt=über ', '--length=8').returncode == 0


def test_lookup_tells_where_a_tile_comes_from(grafted):
  workdir, _ = grafted
  result = run('lookup', f'--workdir={workdir}', '--text=ü')
  assert result.returncode == 0 and 'tile 4: trained on german.txt (sha256 ' in result.stdout, result.stderr
  assert len(result.stdout.splitlines()) == 1 + 2 + 2  # A head, two bytes, two groups of tiles.
  assert 'comes from   trained on german.txt' in run('lookup', f'--workdir={workdir}', '--layer=0', '--tile=5').stdout
  assert 'comes from' not in run('lookup', f'--workdir={workdir}', '--layer=0', '--tile=3').stdout


def test_what_cannot_be_grafted_leaves_no_folder(host, donor, grafted, tmp_path):
  out = tmp_path / 'out'
  bad(run('graft', f'--workdir={host}', f'--donors={donor}', f'--out={grafted[0]}'), 'holds a run already')
  bad(run('graft', f'--workdir={donor}', f'--donors={donor}', f'--out={out}'), 'reads signatures')
  bad(run('graft', f'--workdir={host}', f'--donors={donor},', f'--out={out}'), 'names no folder')
  bad(run('graft', f'--workdir={host}', f'--donors={donor}', f'--out={donor / "new"}'), 'is inside of the run')
  assert not out.exists()
