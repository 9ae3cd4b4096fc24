"""Measure the speed of training."""

import contextlib
import time


class Clock:
  """Measure tokens a second over the latest steps, without the time of compilation, evaluation and saving."""

  def __init__(self, tokens_per_step: int):
    self._tokens = tokens_per_step
    self._marks: list[tuple[int, float]] = []
    self._lost = 0.0

  def tick(self, step: int) -> None:
    """Count a finished step. The first step of a session only starts the clock, because it includes compilation."""
    self._marks = [*self._marks, (step, time.perf_counter() - self._lost)][-50:]

  def rate(self) -> float:
    """Return tokens a second over up to 50 steps, or 0 before the second step."""
    (first, start), (last, end) = self._marks[0], self._marks[-1]
    return (last - first) * self._tokens / (end - start) if last > first else 0.0

  def left(self, steps: int) -> str:
    """Return the time that so many steps take at this rate, h:mm:ss."""
    if not self.rate():
      return '-:--:--'
    seconds = round(steps * self._tokens / self.rate())
    return f'{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}'

  @contextlib.contextmanager
  def paused(self):
    """Stop the clock inside a `with` block."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self._lost += time.perf_counter() - start
