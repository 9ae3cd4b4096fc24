"""Two CPU devices for every test, so that what only works on one is found, and one compilation of equal programs.

Most of the time of the tests is XLA's, so it does not optimise what it compiles, unless XLA_FLAGS says otherwise:
`XLA_FLAGS= pytest` tests the code that users run.
"""

import os
import tempfile

os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

import jax

jax.config.update('jax_num_cpu_devices', 2)
_cache = tempfile.TemporaryDirectory()
jax.config.update('jax_compilation_cache_dir', _cache.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
