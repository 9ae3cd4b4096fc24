"""Exceptions that the command line reports in one line: a user's mistake, and a training run that had to stop."""


class InputError(ValueError):
  """Bad input. The message is one line that says what was given, what is allowed and what to do."""

  exit_code = 2


class WorkdirInUse(InputError):
  """Another program is training in the workdir. The exit code, that of a temporary failure, tells a caller to wait."""

  exit_code = 75


class TrainingStopped(Exception):
  """A run ended before its last step. The message says why and what to do; `exit_code` is for the shell."""

  def __init__(self, message: str, exit_code: int = 1):
    super().__init__(message)
    self.exit_code = exit_code
