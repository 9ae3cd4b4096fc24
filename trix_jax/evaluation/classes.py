"""Measure what tiles specialise in: character classes and their mutual information with tiles."""

import numpy as np

CLASSES = ('letter', 'digit', 'space', 'punctuation', 'newline')


def character_class(character: str) -> str:
  """Return one of `CLASSES`. Every blank except the newline is a space; every other character is punctuation."""
  if character == '\n':
    return 'newline'
  if character.isspace():
    return 'space'
  if character.isalpha():
    return 'letter'
  return 'digit' if character.isdigit() else 'punctuation'


def class_of_tokens(vocabulary: str) -> np.ndarray:
  """Return the index into `CLASSES` of every token, [V] int32."""
  return np.array([CLASSES.index(character_class(character)) for character in vocabulary], np.int32)


def normalised_mutual_information(counts_CT: np.ndarray) -> float:
  """Return 2 I(class; tile) / (H(class) + H(tile)) of a contingency table.

  It is 0 when class and tile are independent, and 1 when each determines the other. It is also 0 when neither varies
  or nothing was counted. The plug-in estimate has an upward bias of about (C - 1)(T - 1) / 2N nats in I.
  """
  joint_CT = np.asarray(counts_CT, np.float64) / max(1, np.sum(counts_CT))

  def entropy(p):
    p = p[p > 0]
    return -np.sum(p * np.log(p))

  class_entropy, tile_entropy = entropy(joint_CT.sum(axis=1)), entropy(joint_CT.sum(axis=0))
  information = class_entropy + tile_entropy - entropy(joint_CT.reshape(-1))
  total = class_entropy + tile_entropy
  return float(max(0.0, 2 * information / total)) if total > 0 else 0.0
