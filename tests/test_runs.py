import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from tiny_training import VOCABULARY, start, text, tiny

from trix_jax.data import corpora
from trix_jax.errors import InputError, WorkdirInUse
from trix_jax.runs import checkpoints, workdirs
from trix_jax.training import hooks


def test_the_best_checkpoint_beyond_the_step_resumed_from_is_forgotten(tmp_path):
  _, _, state = start(tiny())
  saved = checkpoints.Checkpoints(tmp_path)
  for step, loss in ((2, 1.5), (4, 1.25)):
    saved.save('best', state.replace(step=jnp.int32(step)), loss)
  assert saved.forget_after(3) and saved.latest_step('best') == 2
  assert saved.restore('best', state)[1] == 1.5
  assert not saved.forget_after(1)
  with pytest.raises(InputError, match='there is no checkpoint'):
    saved.restore('best', state)


def test_the_newest_checkpoints_stay(tmp_path):
  _, _, state = start(tiny())
  saved = checkpoints.Checkpoints(tmp_path, keep=1)
  for step in (1, 2, 3):
    for kind in checkpoints.KINDS:
      saved.save(kind, state.replace(step=jnp.int32(step)), 1.0)
  assert saved.steps('last') == [3] and saved.steps('best') == [2, 3]


def test_a_folder_without_a_run_is_named_once(tmp_path):
  with pytest.raises(InputError) as refused:
    workdirs.read_run(tmp_path / 'none')
  assert (
    str(refused.value) == f'cannot read {tmp_path}/none/run.json: No such file or directory; give the folder of a run'
  )


ORIGIN = {'text': 'kjv.txt', 'corpus': {'sha256': 'f'}, 'step': 3, 'tiles': [[4]]}


@pytest.mark.parametrize(
  'part, value, said',
  [
    ('corpus', {'vocabulary': ''}, 'distinct characters'),
    ('corpus', {'vocabulary': 'aa'}, 'distinct characters'),
    ('sessions', 3, 'sessions must be a list'),
    (workdirs.ORIGINS, [{}], 'KeyError'),
    (workdirs.ORIGINS, 5, 'TypeError'),
    (workdirs.ORIGINS, [ORIGIN | {'tiles': [4]}], 'TypeError'),
    (workdirs.ORIGINS, [ORIGIN | {'tiles': [['4']]}], 'numbers of steps and tiles'),
    (workdirs.ORIGINS, [ORIGIN | {'text': None}], 'must name texts'),
  ],
)
def test_a_damaged_run_json_is_named(tmp_path, part, value, said):
  run = {'corpus': {'name': 'file', 'sha256': 'f', 'vocabulary': 'ab'}, 'sessions': [], workdirs.ORIGINS: [ORIGIN]}
  path = tmp_path / 'run.json'
  path.write_text(json.dumps(run))
  assert workdirs.read_run(tmp_path) == run
  run[part] = run[part] | value if isinstance(value, dict) else value
  path.write_text(json.dumps(run))
  with pytest.raises(InputError, match=rf'run.json is damaged \(.*{said}.*; give the folder of a run'):
    workdirs.read_run(tmp_path)


def test_run_json_lists_every_session(tmp_path):
  config = tiny()
  _, mesh, state = start(config)
  corpus = corpora.Corpus('file', VOCABULARY, text(), text()[-100:], 'sha')
  for step in (0, 20):
    workdirs.write_run(tmp_path, config, corpus, state.params, state.routing_state, mesh, step)
  described = workdirs.read_run(tmp_path)
  assert [session['started_at_step'] for session in described['sessions']] == [0, 20]
  assert described['corpus']['validation_characters'] == 99
  with pytest.raises(InputError, match='was trained on another text'):
    workdirs.check_corpus(tmp_path, dataclasses.replace(corpus, sha256='other'))


def test_a_workdir_is_written_by_one_training_at_a_time(tmp_path):
  config = tiny()
  with workdirs.open_workdir(tmp_path, config):
    with pytest.raises(WorkdirInUse, match='another training is running'), workdirs.open_workdir(tmp_path, config):
      pass
  with workdirs.open_workdir(tmp_path, config):
    pass
  assert WorkdirInUse.exit_code not in (0, 1, InputError.exit_code)


def test_a_run_knows_the_checkout_that_it_came_from():
  assert (workdirs.CHECKOUT / 'trix_jax' / 'runs' / 'workdirs.py').samefile(workdirs.__file__)


def test_a_trace_ends_where_a_run_fails(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: calls.append('start'))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))
  with pytest.raises(ZeroDivisionError), hooks.Profile(tmp_path, 0, 100) as profile:
    profile.before_step(hooks.PROFILE_AFTER, jnp.zeros(()))
    raise ZeroDivisionError
  assert calls == ['start', 'stop']
