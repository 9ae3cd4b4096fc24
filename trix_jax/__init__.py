"""TriX-JAX: sparse ternary language models whose tiles are routed by reading their own weights.

Each package may import those before it: `errors`, `settings`, `system` (files, the host, devices), `core` (the
mathematics), `nn` (layers and the model), `data`, `configuration`, `runs` (a run on disk), `inference`, `evaluation`,
`inspection` (a model dissected), `training`, `cli` (the programs).
"""

import importlib
from typing import Any

# Imported when they are asked for: a program prepares the CPU before anything imports JAX.
_PUBLIC = {
  'FFNConfig': 'trix_jax.nn.model_config',
  'LanguageModel': 'trix_jax.inference',
  'ModelConfig': 'trix_jax.nn.model_config',
  'TriXFFN': 'trix_jax.nn.ffn',
  'load': 'trix_jax.inference',
}
__all__ = ['FFNConfig', 'LanguageModel', 'ModelConfig', 'TriXFFN', '__version__', 'load']


def __getattr__(name: str) -> Any:
  if name == '__version__':
    return importlib.import_module('importlib.metadata').version('trix-jax')
  if name in _PUBLIC:
    return getattr(importlib.import_module(_PUBLIC[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
