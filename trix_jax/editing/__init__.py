"""Change trained models without training: pure functions of their parameters."""
