"""Mutations of `trix_jax/data`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'data',
    'trix_jax/data/corpora.py',
    'test_data test_evaluation',
    ('batches_forget_the_seed', 'np.random.Philox(key=[seed, epoch])', 'np.random.Philox(key=[0, epoch])'),
    ('every_epoch_is_the_first', 'np.random.Philox(key=[seed, epoch])', 'np.random.Philox(key=[seed, 0])'),
    (
      'batches_forget_the_step',
      'index = np.arange(step * batch_size, (step + 1) * batch_size)',
      'index = np.arange(batch_size)',
    ),
    (
      'padding_of_the_last_window_counts',
      'return windows, np.minimum(context, targets - np.arange(count) * context)',
      'return windows, np.full(count, context)',
    ),
    (
      'evaluation_windows_overlap',
      'windows = padded[np.arange(count)[:, None] * context +',
      'windows = padded[np.arange(count)[:, None] * (context - 1) +',
    ),
    ('validation_text_lacks_its_first_predecessor', 'tokens[cut - 1 :]', 'tokens[cut:]'),
    (
      'bytes_are_those_of_latin_1',
      "text.encode('utf-8', 'surrogateescape')",
      "text.encode('latin-1', 'replace')",
    ),
    ('decoder_cuts_characters', "encode('ascii', 'surrogateescape'), last", "encode('ascii', 'surrogateescape'), True"),
    ('split_of_another_fraction', 'TRAIN_FRACTION = 0.9', 'TRAIN_FRACTION = 0.8'),
    (
      'damaged_corpus_accepted',
      'if hashlib.sha256(content).hexdigest() != TINYSHAKESPEARE_SHA256:\n    raise InputError(',
      'if not content:\n    raise InputError(',
    ),
    (
      'missing_corpus_swapped_for_another',
      'text = _tinyshakespeare()',
      'try:\n      text = _tinyshakespeare()\n    except InputError:\n      text = _python_stdlib()',
    ),
    ('file_ignored_with_another_corpus', "if (name == 'file') != bool(file):", "if name == 'file' and not file:"),
  ),
)
