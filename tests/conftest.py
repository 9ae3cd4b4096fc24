"""Two CPU devices for every test, so that what only works on one is found, and one compilation of equal programs."""

import tempfile

import jax

jax.config.update('jax_num_cpu_devices', 2)
_cache = tempfile.TemporaryDirectory()
jax.config.update('jax_compilation_cache_dir', _cache.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
