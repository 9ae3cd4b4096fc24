import hashlib
import http.server
import socket
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest

from trix_jax.data import corpora
from trix_jax.errors import InputError

TEXT = b'First Citizen:\n' * 100


def test_tokens_round_trip_through_a_sorted_vocabulary(tmp_path):
  (tmp_path / 'text').write_text('häßlich, aber wahr\n' * 10)
  corpus = corpora.load_corpus('file', str(tmp_path / 'text'))
  assert list(corpus.vocabulary) == sorted(set('häßlich, aber wahr\n'))
  joined = np.concatenate([corpus.train, corpus.validation[1:]])
  assert corpora.decode(joined, corpus.vocabulary) == 'häßlich, aber wahr\n' * 10
  assert len(corpus.train) == int(0.9 * len(joined))
  assert corpus.validation[0] == corpus.train[-1]


def test_any_text_is_bytes(tmp_path):
  text = 'häßlich 𝄞, aber wahr\n' * 10
  (tmp_path / 'text').write_text(text)
  corpus = corpora.load_corpus('file', str(tmp_path / 'text'), 'byte')
  assert corpus.vocabulary == corpora.BYTES and len(set(corpora.BYTES)) == 256
  joined = np.concatenate([corpus.train, corpus.validation[1:]])
  assert joined.dtype == np.int32 and bytes(joined.tolist()) == text.encode()
  assert corpora.decode(joined, corpora.BYTES) == text
  assert corpora.name_unit(corpora.BYTES) == 'bytes' and corpora.name_unit('ab') == 'characters'
  with pytest.raises(InputError, match="unknown tokenizer 'bytes'; choose one of char, byte"):
    corpora.load_corpus('file', str(tmp_path / 'text'), 'bytes')


def test_bytes_that_are_no_text_are_shown_and_those_of_a_command_are_kept():
  assert corpora.decode([0x61, 0xC3, 0x62, 0xFF], corpora.BYTES) == 'a\ufffdb\ufffd'
  np.testing.assert_array_equal(corpora.encode('a\udcff', corpora.BYTES), [0x61, 0xFF])
  with pytest.raises(InputError, match=r"'\\ud800' is no character"):
    corpora.encode('a\ud800', corpora.BYTES)
  with pytest.raises(InputError, match='tokens go from 0 to 256; the vocabulary has 0 to 255'):
    corpora.decode([0, 256], corpora.BYTES)


@pytest.mark.parametrize(('vocabulary', 'text'), [(corpora.BYTES, 'a𝄞é'), ('a𝄞é', 'a𝄞é')])
def test_a_decoder_gives_whole_characters(vocabulary, text):
  decode, tokens = corpora.make_decoder(vocabulary), corpora.encode(text, vocabulary)
  pieces = [decode([token], False) for token in tokens]
  assert ''.join(pieces) == text and set(pieces) - {''} == set(text)
  assert decode(tokens[-1:], True) == ('\ufffd' if vocabulary == corpora.BYTES else 'é')


def test_batches_are_a_function_of_seed_and_step():
  tokens = np.arange(1000, dtype=np.int32)
  first = corpora.draw_batch(tokens, 10, 4, seed=1, step=7)
  np.testing.assert_array_equal(first, corpora.draw_batch(tokens, 10, 4, seed=1, step=7))
  assert np.any(first != corpora.draw_batch(tokens, 10, 4, seed=2, step=7))
  assert np.any(first != corpora.draw_batch(tokens, 10, 4, seed=1, step=8))
  np.testing.assert_array_equal(np.diff(first, axis=1), 1)  # Windows are contiguous text.


@pytest.mark.parametrize('length', [11, 12, 95, 1000])
def test_an_epoch_predicts_no_character_twice(length):
  tokens, context = np.arange(length, dtype=np.int32), 10
  windows = max(1, (length - context) // context)
  epoch = np.concatenate([corpora.draw_batch(tokens, context, 1, 0, step) for step in range(windows)])
  targets = epoch[:, 1:].reshape(-1)
  assert len(set(targets)) == len(targets) > length - 2 * context - 1
  later = np.concatenate([corpora.draw_batch(tokens, context, 1, 0, windows + step) for step in range(windows)])
  assert length < 100 or np.any(later != epoch)


def test_every_character_is_predicted_sooner_or_later():
  tokens, context = np.arange(1023, dtype=np.int32), 256
  seen = {
    int(token) for step in range(200) for token in corpora.draw_batch(tokens, context, 100, 0, step)[:, 1:].reshape(-1)
  }
  assert seen == set(range(1, 1023))


@pytest.mark.parametrize('length', [11, 12, 20, 21, 22, 100])
def test_evaluation_predicts_every_character_once(length):
  tokens = np.arange(1, length + 1, dtype=np.int32)
  windows, targets = corpora.cut_windows(tokens, 10)
  predicted = np.concatenate([window[1 : count + 1] for window, count in zip(windows, targets, strict=True)])
  np.testing.assert_array_equal(predicted, tokens[1:])


def test_batches_are_of_one_size_and_the_last_ends_in_zeros():
  rows, numbers = np.arange(1, 11).reshape(5, 2), np.arange(1, 6)
  parts = list(corpora.batches(2, rows, numbers))
  assert [start for start, _ in parts] == [0, 2, 4]
  assert all(of.shape == (2, 2) and number.shape == (2,) for _, (of, number) in parts)
  np.testing.assert_array_equal(np.concatenate([of for _, (of, _) in parts]), [*rows, [0, 0]])
  np.testing.assert_array_equal(np.concatenate([number for _, (_, number) in parts]), [*numbers, 0])


def test_a_byte_order_mark_is_no_character(tmp_path):
  (tmp_path / 'text').write_bytes(b'\xef\xbb\xbfabc')
  assert corpora.read_text(str(tmp_path / 'text')) == 'abc'


def test_one_character_cannot_be_evaluated():
  with pytest.raises(InputError, match='nothing to predict'):
    corpora.cut_windows(np.zeros(1, np.int32), 10)


def test_a_context_longer_than_the_text_is_refused():
  with pytest.raises(InputError, match=r'context = 10 needs at least 11 characters of training text, and there are 10'):
    corpora.draw_batch(np.zeros(10, np.int32), 10, 1, 0, 0)


def test_unseen_characters_are_named():
  with pytest.raises(InputError, match=r"2 character.* 'é' '—'"):
    corpora.encode('caf\u00e9\u2014', 'acf')


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('gone', None, 'cannot read'),
    ('empty', b'', 'is empty'),
    ('latin', b'caf\xe9 ', r'not UTF-8 text \(byte 3\)'),
    ('short', b'a', 'too few'),
  ],
)
def test_bad_files_get_one_line(tmp_path, name, content, message):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(InputError, match=message) as error:
    corpora.load_corpus('file', str(tmp_path / name))
  assert '\n' not in str(error.value)


def test_corpora_are_named_and_never_swapped(tmp_path, monkeypatch):
  with pytest.raises(InputError, match="'shakespeare'; choose one of tinyshakespeare, python_stdlib, file"):
    corpora.load_corpus('shakespeare')
  with pytest.raises(InputError, match='corpus "file"'):
    corpora.load_corpus('python_stdlib', 'text.txt')
  monkeypatch.setenv('TRIX_DATA_DIR', str(tmp_path))
  with pytest.raises(InputError, match='TRIX_DATA_DIR is set'):
    corpora.load_corpus('tinyshakespeare')


def test_python_stdlib_is_ascii_and_large():
  corpus = corpora.load_corpus('python_stdlib')
  assert corpus.vocabulary.isascii() and len(corpus.train) > 500_000


def test_a_damaged_tinyshakespeare_is_refused(tmp_path, monkeypatch):
  (tmp_path / 'tinyshakespeare').mkdir()
  (tmp_path / 'tinyshakespeare' / 'input.txt').write_text('To be')
  monkeypatch.setenv('TRIX_DATA_DIR', str(tmp_path))
  with pytest.raises(InputError, match='sha256 differs'):
    corpora.load_corpus('tinyshakespeare')


class Website(http.server.BaseHTTPRequestHandler):
  """Answers with what stands under a path: status, promised length and body."""

  pages: ClassVar[dict[str, tuple[int, int, bytes]]] = {
    '/text': (200, len(TEXT), TEXT),
    '/other': (200, 5, b'To be'),
    '/short': (200, len(TEXT), TEXT[:10]),
    '/gone': (404, 0, b''),
  }

  def do_GET(self):
    self.server.asked.append(self.path)
    if self.path == '/silent':
      self.server.closing.wait(30)
      return
    status, length, body = self.pages[self.path]
    self.send_response(status)
    self.send_header('Content-Length', str(length))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *_):
    pass


@pytest.fixture
def website(tmp_path, monkeypatch):
  """Says of a path of a local server that TinyShakespeare is there, and has the paths that were asked for."""
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Website) as server:
    server.asked, server.closing = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()

    def at(path):
      monkeypatch.setattr(corpora, 'TINYSHAKESPEARE_URL', f'http://127.0.0.1:{server.server_port}{path}')

    at.asked = server.asked
    for name in ('TRIX_DATA_DIR', 'http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
      monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(corpora, 'TINYSHAKESPEARE_SHA256', hashlib.sha256(TEXT).hexdigest())
    yield at
    server.closing.set()
    server.shutdown()
    thread.join()


linux = pytest.mark.skipif(sys.platform != 'linux', reason='where the cache is differs between systems')


@linux
def test_tinyshakespeare_is_downloaded_once_into_the_cache(tmp_path, website, capfd):
  website('/text')
  for _ in range(2):
    assert len(corpora.load_corpus('tinyshakespeare').train) == 1350
  assert website.asked == ['/text'] and capfd.readouterr() == ('', '')
  [path] = [path for path in tmp_path.rglob('*') if path.is_file()]
  assert path == tmp_path / 'cache' / 'trix_jax' / 'tinyshakespeare' / 'input.txt' and path.read_bytes() == TEXT
  other = tmp_path / 'other'
  other.touch()
  assert path.stat().st_mode == other.stat().st_mode  # As readable as any file of its user.


@linux
def test_the_cache_is_in_the_home_where_nothing_else_is_said(tmp_path, website, monkeypatch):
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  path = tmp_path / '.cache' / 'trix_jax' / 'tinyshakespeare' / 'input.txt'  # Where every version since 0.1 put it.
  path.parent.mkdir(parents=True)
  path.write_bytes(TEXT)
  website('/gone')
  assert len(corpora.load_corpus('tinyshakespeare').train) == 1350 and website.asked == []


@linux
def test_a_file_in_the_cache_that_is_another_text_is_refused_and_stays(tmp_path, website):
  path = tmp_path / 'cache' / 'trix_jax' / 'tinyshakespeare' / 'input.txt'
  path.parent.mkdir(parents=True)
  path.write_text('To be')
  website('/text')
  with pytest.raises(InputError, match=f'{path} is not the TinyShakespeare text .* delete it'):
    corpora.load_corpus('tinyshakespeare')
  assert path.read_text() == 'To be' and website.asked == []


@pytest.mark.parametrize(
  ('path', 'reason'),
  [('/gone', '404'), ('/other', 'what came is another text'), ('/short', 'IncompleteRead'), ('/silent', 'timed out')],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(tmp_path, website, monkeypatch, capfd, path, reason):
  monkeypatch.setattr(corpora, 'DOWNLOAD_TIMEOUT', 0.2)
  website(path)
  message = rf'^cannot download TinyShakespeare from http.*{path} \(.*{reason}.*\); .*TRIX_DATA_DIR.*python_stdlib$'
  with pytest.raises(InputError, match=message) as error:
    corpora.load_corpus('tinyshakespeare')
  assert '\n' not in str(error.value) and capfd.readouterr() == ('', '')
  assert not [path for path in tmp_path.rglob('*') if path.is_file()] and website.asked == [path]


def test_without_a_network_the_error_says_what_to_do(tmp_path, website, monkeypatch):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    nobody = f'http://127.0.0.1:{taken.getsockname()[1]}/text'
  monkeypatch.setattr(corpora, 'TINYSHAKESPEARE_URL', nobody)
  with pytest.raises(InputError, match=r'^cannot download.*refused.*TRIX_DATA_DIR.*python_stdlib$'):
    corpora.load_corpus('tinyshakespeare')
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]


@linux
def test_a_cache_that_cannot_be_written_is_named(tmp_path, website):
  (tmp_path / 'cache').write_text('no folder')
  website('/text')
  with pytest.raises(InputError, match=r'^cannot download.*Not a directory.*TRIX_DATA_DIR'):
    corpora.load_corpus('tinyshakespeare')
