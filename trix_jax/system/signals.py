"""Stop a long program at a moment of its choice."""

import signal
import sys


class StopSignals:
  """Remember the first SIGTERM or SIGINT without ending the program; a second one ends it as usual."""

  def __init__(self):
    self.received: signal.Signals | None = None

  def __enter__(self):
    self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
    return self

  def __exit__(self, *_):
    self._restore()

  def _restore(self):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number, _):
    self.received = signal.Signals(number)
    self._restore()
    print(
      f'{self.received.name}: finishing the step and saving; once more to stop without saving',
      file=sys.stderr,
      flush=True,
    )
