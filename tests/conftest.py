"""Two CPU devices for every test, so that what only works on one is found, and one compilation of equal programs.

Most of the time of the tests is XLA's, so it does not optimise what it compiles, unless XLA_FLAGS says otherwise:
`XLA_FLAGS= pytest` tests the code that users run.
"""

import importlib.metadata
import os
import tempfile

flags = ['--xla_backend_optimization_level=0']
# These nearly halve the rest, but come without a promise, and XLA ends a program that has a flag it does not know.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  flags += [
    '--xla_cpu_use_fusion_emitters=false',
    '--xla_cpu_parallel_codegen_split_count=1',
    '--xla_llvm_disable_expensive_passes=true',
  ]
os.environ.setdefault('XLA_FLAGS', ' '.join(flags))

import jax

jax.config.update('jax_num_cpu_devices', 2)
_cache = tempfile.TemporaryDirectory()
jax.config.update('jax_compilation_cache_dir', _cache.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
