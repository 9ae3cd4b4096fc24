"""What runs show together: estimates over seeds, and verdicts on claims."""
