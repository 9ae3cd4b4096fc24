"""The reproduction suites: tables of runs, the runner, what is measured of a run, verdicts, and the report."""
