"""The code broken on purpose, one mutation at a time, to see that the tests notice: `run.py` says how."""
