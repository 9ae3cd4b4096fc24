"""Pictures and the page of all results."""
