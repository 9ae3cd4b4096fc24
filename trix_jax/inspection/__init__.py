"""A trained model dissected: cards of its tiles, a gate fitted to it, and plots."""
