"""Training: the step, its optimisers and routing state, and the loop that runs it to its end."""
