"""Files are written whole or not at all, whoever else writes them."""

import errno
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from trix_jax.errors import InputError
from trix_jax.system import files


def test_many_writers_and_a_reader_see_whole_files(tmp_path):
  path, contents = tmp_path / 'file', [bytes([i]) * 100_000 for i in range(3)]
  files.write_whole(path, contents[0])
  writers = [
    threading.Thread(target=lambda i=i: [files.write_whole(path, contents[i]) for _ in range(50)]) for i in range(3)
  ]
  for writer in writers:
    writer.start()
  while any(writer.is_alive() for writer in writers):
    assert path.read_bytes() in contents
  assert os.listdir(tmp_path) == ['file']


def test_what_is_no_file_is_left_alone(tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  for path in (tmp_path / 'pipe', tmp_path, pathlib.Path('/dev/null'), pathlib.Path('/')):
    with pytest.raises(OSError, match='no ordinary file'):
      files.write_whole(path, b'')
  assert (tmp_path / 'pipe').is_fifo() and os.listdir(tmp_path) == ['pipe']


def test_a_link_stays_one(tmp_path):
  link, target = tmp_path / 'link', tmp_path / 'target'
  link.symlink_to('target')
  for content in (b'new', b'newer'):  # The file it names is not there at first.
    files.write_whole(link, content)
    assert link.is_symlink() and target.read_bytes() == content


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('pathlib.Path.replace', full)
  with pytest.raises(OSError, match='No space'):
    files.write_whole(tmp_path / 'file', b'x')
  assert not os.listdir(tmp_path)
  with pytest.raises(FileNotFoundError):
    files.write_whole(tmp_path / 'no' / 'folder', b'x')


def test_a_lock_is_held_by_one_and_free_again(tmp_path):
  in_use = InputError('in use')
  for _ in range(2):
    with (
      files.hold_lock(tmp_path / 'lock', in_use),
      pytest.raises(InputError, match='in use'),
      files.hold_lock(tmp_path / 'lock', in_use),
    ):
      raise AssertionError('held twice')
  with pytest.raises(InputError, match=f'cannot write {tmp_path}'), files.hold_lock(tmp_path, in_use):
    raise AssertionError('a folder was locked')


def test_a_lock_is_held_against_other_threads_and_freed_in_any(tmp_path):
  in_use, refused = InputError('in use'), []

  def hold():
    try:
      with files.hold_lock(tmp_path / 'lock', in_use):
        pass
    except InputError as error:
      refused.append(error)

  held = files.hold_lock(tmp_path / 'lock', in_use)
  held.__enter__()
  for run in (hold, lambda: held.__exit__(None, None, None), hold):
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
  assert refused == [in_use]  # By the first alone: another thread than the holder's freed it for the second.


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
  code = (
    'import pathlib, sys, time; from trix_jax import errors; from trix_jax.system import files\n'
    'with files.hold_lock(pathlib.Path(sys.argv[1]), errors.InputError("in use")):\n'
    '  print("held", flush=True); time.sleep(60)'
  )
  in_use = InputError('in use')
  with subprocess.Popen([sys.executable, '-c', code, tmp_path / 'lock'], stdout=subprocess.PIPE) as process:
    assert process.stdout.readline() == b'held\n'
    with pytest.raises(InputError, match='in use'), files.hold_lock(tmp_path / 'lock', in_use):
      raise AssertionError('held twice')
    process.kill()
  with files.hold_lock(tmp_path / 'lock', in_use):
    pass


def test_a_lock_makes_no_folder(tmp_path):
  missing = tmp_path / 'no' / 'lock'
  with (
    pytest.raises(InputError, match=f'cannot write {missing}: No such file'),
    files.hold_lock(missing, InputError('in use')),
  ):
    raise AssertionError('a file in a missing folder was locked')
  assert not missing.parent.exists()


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
  fcntl = pytest.importorskip('fcntl')

  def refuse(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with (
    pytest.raises(InputError, match=f'cannot lock {tmp_path}/lock: {os.strerror(number)}; choose a folder'),
    files.hold_lock(tmp_path / 'lock', InputError('in use')),
  ):
    raise AssertionError('held without a lock')


def test_checking_that_a_file_can_be_written_changes_nothing(tmp_path):
  path = tmp_path / 'file'
  files.check_writable(path)
  assert not path.exists()
  path.write_bytes(b'old')
  files.check_writable(path)
  assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['file']
  for wrong in (tmp_path, tmp_path / 'no' / 'file', pathlib.Path('/dev/null')):
    with pytest.raises(InputError, match=f'cannot write {wrong}'):
      files.check_writable(wrong)
