"""The exceptions that command lines turn into one line: a user's mistake, and a training that had to stop."""


class InputError(ValueError):
  """Bad input. The message is one line that says what was given, what is allowed and what to do."""

  exit_code = 2


class WorkdirInUse(InputError):
  """Another program is training there; its exit code, that of a temporary failure, lets a caller wait."""

  exit_code = 75


class TrainingStopped(Exception):
  """A run that ended before its last step. The message says why and what to do; `exit_code` is for the shell."""

  def __init__(self, message: str, exit_code: int = 1):
    super().__init__(message)
    self.exit_code = exit_code
