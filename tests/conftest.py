"""Two CPU devices for every test, so that what only works on one is found."""

import jax

jax.config.update('jax_num_cpu_devices', 2)
