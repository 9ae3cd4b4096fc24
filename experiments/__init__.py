"""The reproduction suites: tables of runs, the runner, measurements of a run, verdicts, and the report."""
