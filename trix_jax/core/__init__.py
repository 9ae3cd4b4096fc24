"""The mathematics: pure functions of arrays, without Flax and without settings of a whole model."""
