"""The reproduction suites: tables of runs, the runner, measurements of a run, verdicts, and the report."""

import importlib.util

if missing := [name for name in ('matplotlib', 'scipy') if importlib.util.find_spec(name) is None]:
  raise ImportError(f"the experiments need {' and '.join(missing)}; pip install -e '.[experiments]'")
