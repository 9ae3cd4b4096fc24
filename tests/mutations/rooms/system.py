"""Mutations of `trix_jax/system`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'system',
    'trix_jax/system/files.py',
    'test_files test_artifact',
    (
      'files_written_in_place',
      '    partial.write_bytes(content)\n    partial.replace(os.path.realpath(path))',
      '    path.write_bytes(content)',
    ),
    ('partial_files_left_behind', 'partial.unlink(missing_ok=True)', 'pass'),
    ('links_replaced_by_files', 'partial.replace(os.path.realpath(path))', 'partial.replace(path)'),
  ),
  *break_file(
    'system',
    'trix_jax/errors.py',
    'test_command_lines test_runner test_runs',
    ('mistakes_exit_with_success', '\n  exit_code = 2\n', '\n  exit_code = 0\n'),
    ('workdir_in_use_is_an_ordinary_mistake', 'exit_code = 75', 'exit_code = 2'),
  ),
)
