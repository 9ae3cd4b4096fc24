"""Layers and the language model: thin Flax modules over `trix_jax.core`."""
