"""Apply Flax modules as one program: operation by operation they take seconds to compile."""

import jax

# By identity, since a module may hold arrays, which have no hash; it is kept, so that its number stays its own.
_programs = {}


def apply(module, *arguments, **options):
  """Call `module.apply`, compiled once for a module and shapes."""
  if id(module) not in _programs:
    _programs[id(module)] = module, jax.jit(module.apply)
  return _programs[id(module)][1](*arguments, **options)
