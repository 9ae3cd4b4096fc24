import json
import math

import pytest

from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import convert_loss
from trix_jax.runs import metrics


def row(step, split='train'):
  return {'step': step, 'split': split, 'loss': 1.0, 'tile_load': [[0.5, 0.5]], 'tokens_per_second': None}


def test_a_loss_in_nats_bits_and_as_perplexity():
  assert convert_loss(3 * math.log(2)) == pytest.approx({'loss': 3 * math.log(2), 'perplexity': 8, 'bits_per_char': 3})


def test_rows_after_the_step_that_a_run_goes_on_from_are_cut(tmp_path):
  with metrics.MetricWriter(tmp_path, 0) as writer:
    for step in (1, 2, 3):
      writer.write(row(step))
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text() + json.dumps(row(4))[:-9])  # Killed while it wrote.
  with metrics.MetricWriter(tmp_path, 2) as writer:
    writer.write(row(3))
  assert [json.loads(line)['step'] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_rows_are_read_by_split(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(''.join(json.dumps(of) + '\n' for of in (row(1), row(2), row(2, 'validation'))) + '{"step": 3')
  assert [of['step'] for of in metrics.read_metrics(tmp_path)] == [1, 2, 2]
  assert metrics.read_metrics(tmp_path, 'validation') == [row(2, 'validation')]
  with pytest.raises(InputError, match='cannot read'):
    metrics.read_metrics(tmp_path / 'nowhere')
