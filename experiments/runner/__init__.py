"""What runs suites: the plan of each run, jobs side by side, and the files of results."""
