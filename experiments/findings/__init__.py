"""What a run shows: measures of one run, and estimates over seeds."""
