"""Texts that suites train on."""

import shutil
import subprocess
import types

import numpy as np
import pytest

from experiments import texts
from experiments.runner import planning
from experiments.texts import king_james, patterns
from trix_jax.errors import InputError


def test_kinds_of_lines_are_those_that_were_written():
  text, kinds = patterns.text(), patterns.kinds()
  assert len(text) == len(kinds) and text.count('\n') == patterns.LINES and set(kinds) == set(range(6))
  lines = text.splitlines(keepends=True)
  ends = np.cumsum([len(line) for line in lines])
  for line, end in list(zip(lines, ends, strict=True))[:200]:
    [kind] = set(kinds[end - len(line) : end])
    assert ('(' in line) == (patterns.KINDS[kind] == 'brackets')
    assert (line.split()[0] in patterns.WORDS) == (patterns.KINDS[kind] == 'words')


def test_a_run_names_its_text_by_what_it_says(tmp_path, monkeypatch):
  [of] = planning.runs_of('six_patterns', ['8_tiles'], 'small', tmp_path, 1)
  assert of.settings['file'] == str(tmp_path / 'patterns.txt') and planning.texts_of([of]) == {texts.PATTERNS}
  texts.write(of.text, tmp_path)
  assert (tmp_path / 'patterns.txt').read_text() == patterns.text()
  [moved] = planning.runs_of('six_patterns', ['8_tiles'], 'small', tmp_path / 'elsewhere', 1)
  assert moved.digest == of.digest
  other = texts.TEXTS[texts.PATTERNS]._replace(sha256=lambda: '0' * 64)
  monkeypatch.setitem(texts.TEXTS, texts.PATTERNS, other)
  [changed] = planning.runs_of('six_patterns', ['8_tiles'], 'small', tmp_path, 1)
  assert changed.digest != of.digest
  [user] = planning.runs_of('transfer', ['branch'], 'small', tmp_path, 1)
  assert planning.texts_of([user]) == set()


def test_verses_lose_their_numbers(monkeypatch):
  printed = 'Ge1:1 In the beginning\n1Co1:2 Unto the church\n'
  assert king_james.strip_numbers(printed) == 'In the beginning\nUnto the church\n'
  king_james.text.cache_clear()
  monkeypatch.setattr(shutil, 'which', lambda _: None)
  with pytest.raises(InputError, match='apt-get install bible-kjv'):
    king_james.text()
  monkeypatch.setattr(shutil, 'which', lambda name: name)
  monkeypatch.setattr(subprocess, 'run', lambda *_, **__: types.SimpleNamespace(stdout=printed))
  with pytest.raises(InputError, match='another text than that of bible-kjv'):
    king_james.text()


@pytest.mark.skipif(not shutil.which(king_james.PROGRAM), reason='the program that holds the text is not installed')
def test_the_king_james_bible_is_the_text_of_its_hash():
  text = king_james.text()
  assert len(text) == 4_137_850 and len(set(text)) == 63 and text.count('\n') == 31_102
  assert text.startswith('In the beginning God created') and text.endswith('be with you all. Amen.\n')
