"""The one exception that stands for a user's mistake."""


class InputError(ValueError):
  """Bad input. The message is one line that says what was given, what is allowed and what to do."""
