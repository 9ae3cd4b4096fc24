"""Apply modules and models as one program: operation by operation they take seconds to compile."""

import jax

from trix_jax.nn import transformer

# By identity, since a module may hold arrays, which have no hash; it is kept, so that its number stays its own.
_programs = {}

# `transformer.init` and `transformer.apply`, compiled once for a model and shapes.
init = jax.jit(transformer.init, static_argnums=0)
forward = jax.jit(transformer.apply, static_argnums=0)


def apply(module, *arguments, **options):
  """Call `module.apply`, compiled once for a module and shapes."""
  if id(module) not in _programs:
    _programs[id(module)] = module, jax.jit(module.apply)
  return _programs[id(module)][1](*arguments, **options)
