"""Count what a layer computes for one token, in multiply-accumulates. Padding and memory are not in it."""

from typing import NamedTuple

from trix_jax.nn.model_config import FFNConfig


class Cost(NamedTuple):
  """Multiply-accumulates of one token in one layer: of choosing its tiles, and of their hidden units."""

  routing: int
  tiles: int

  @property
  def total(self) -> int:
    """Return the sum of both."""
    return self.routing + self.tiles


def count_products(config: FFNConfig) -> Cost:
  """Count the multiply-accumulates of a layer at inference.

  Scores cost D for each key. An address that a table holds costs nothing, nor does a routing that scores decide not.
  """
  D, T, C, way = config.d_model, config.tiles, config.clusters, config.way
  scored = C + config.probes * (T // C) if C and way.uses_index else T
  routing = scored * D if way.by_scores and not config.has_fixed_addresses else 0
  return Cost(routing, (T if way.takes_all else config.top_k) * config.hidden * 2 * D)
