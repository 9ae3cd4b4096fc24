"""A run on disk: its folder, checkpoints, figures, and the record of how it was made."""
