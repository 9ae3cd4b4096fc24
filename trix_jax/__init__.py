"""TriX-JAX: sparse ternary language models whose tiles are routed by reading their own weights.

From the bottom up: `ternary`, `signatures`, `routing` and `dispatch` are pure functions; `ffn`, `attention` and
`transformer` are the layers; `training`, `evaluation` and `trainer` run them; `inference` uses what they left.
"""
