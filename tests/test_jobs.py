"""Programs side by side: their cores, their exit codes, and an end that reaches all of them."""

import os
import sys
import threading
import time

import pytest

from experiments.runner import jobs
from experiments.runner.jobs import Jobs

# Makes a file, and writes into it when it is told to end.
SAVING = """
import pathlib, signal, sys, time
saved = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (saved.write_text('saved'), sys.exit(143)))
saved.touch()
time.sleep(60)
"""


@pytest.fixture
def four_cores(monkeypatch):
  taken = []
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 2, 4, 6}, raising=False)
  monkeypatch.setattr(os, 'sched_setaffinity', lambda _, cores: taken.append(cores), raising=False)
  return taken


def test_jobs_share_the_cores(four_cores):
  assert jobs.shares(1) == [] == jobs.shares(5)
  assert jobs.shares(2) == [{0, 4}, {2, 6}] and jobs.shares(3) == [{0, 6}, {2}, {4}]
  both = threading.Barrier(2)
  with Jobs(2) as of:
    for future in [of.submit(both.wait, 10) for _ in range(2)]:
      future.result()
  assert sorted(map(sorted, four_cores)) == [[0, 4], [2, 6]]


def test_a_program_has_its_cores_and_leaves_memory_to_others(tmp_path, monkeypatch):
  monkeypatch.delenv('XLA_PYTHON_CLIENT_PREALLOCATE', raising=False)
  program = (
    'import os; print(len(getattr(os, "sched_getaffinity", lambda _: [0])(0)), '
    'os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE"))'
  )
  for count in (1, 2):
    log = tmp_path / str(count)
    with Jobs(count) as of:
      assert of.submit(of.call, [sys.executable, '-c', program], tmp_path, log, 60, lambda: None).result() == 0
    shares = jobs.shares(count) or [getattr(os, 'sched_getaffinity', lambda _: [0])(0)]
    assert log.read_text().split() == [str(len(shares[0])), 'None' if count == 1 else 'false']


def test_the_exit_code_comes_back_and_somebody_is_told_meanwhile(tmp_path):
  told = []
  program = 'import time; print("here"); time.sleep(0.5); raise SystemExit(3)'
  with Jobs(1) as of:
    code = of.call([sys.executable, '-c', program], tmp_path, tmp_path / 'log', 0.1, lambda: told.append(1))
  assert code == 3 and told and (tmp_path / 'log').read_text() == 'here\n'


def test_all_are_stopped_and_what_waits_is_not_started(tmp_path):
  of = Jobs(2)
  files = [tmp_path / str(number) for number in range(3)]
  futures = [
    of.submit(of.call, [sys.executable, '-c', SAVING, str(file)], tmp_path, tmp_path / 'log', 60, lambda: None)
    for file in files
  ]
  woken = []

  def sleep():
    try:
      of.sleep(60)
    except jobs.Stopped:
      woken.append(True)

  asleep = threading.Thread(target=sleep)
  asleep.start()
  while not (files[0].exists() and files[1].exists()):
    time.sleep(0.01)
  of.stop()
  asleep.join(10)
  assert woken
  assert [file.read_text() for file in files[:2]] == ['saved', 'saved'] and not files[2].exists()
  for future in futures[:2]:
    assert isinstance(future.exception(), jobs.Stopped)
  assert futures[2].cancelled()
  with pytest.raises(jobs.Stopped):
    of.call([sys.executable, '-c', ''], tmp_path, tmp_path / 'log', 60, lambda: None)


def test_a_program_ends_with_its_thread(tmp_path):
  def tell():
    if file.exists():
      raise BrokenPipeError

  file = tmp_path / 'saved'
  with Jobs(1) as of, pytest.raises(BrokenPipeError):
    of.call([sys.executable, '-c', SAVING, str(file)], tmp_path, tmp_path / 'log', 0.1, tell)
  assert file.read_text() == 'saved'
