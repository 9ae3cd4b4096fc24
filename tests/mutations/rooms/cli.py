"""Mutations of `trix_jax/cli`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'cli',
    'trix_jax/cli/graft.py',
    'test_grafting',
    ('a_donor_of_any_vocabulary', 'if donor.vocabulary != host.vocabulary:', 'if not donor.vocabulary:'),
    ('recovered_of_what_is_left', '(before - after) / (before - best)', '(after - best) / (before - best)'),
  ),
  *break_file(
    'cli',
    'trix_jax/cli/launcher.py',
    'test_command_lines test_processes',
    (
      'a_stopped_training_exits_as_a_mistake',
      '    _fail(str(error), error.exit_code)\n  except MemoryError',
      '    _fail(str(error), 2)\n  except MemoryError',
    ),
    ('an_unknown_program_trains', 'elif name not in PROGRAMS:', 'elif not name:'),
  ),
  *break_file(
    'cli',
    'trix_jax/cli/arguments.py',
    'test_command_lines',
    ('names_of_configs_are_paths', 'shipped_configs().get(path, path)', 'path'),
  ),
)
