"""Fixtures of the kernel tests. They need JAX, NumPy and Hypothesis only, so that they also run under emulation."""

import os

import hypothesis
import pytest

from xla_kernels import native

# Every example is a size of its own and has to be compiled.
hypothesis.settings.register_profile('kernels', deadline=None, max_examples=6)
hypothesis.settings.register_profile('exhaustive', deadline=None, max_examples=100)
hypothesis.settings.register_profile('emulated', deadline=None, max_examples=2)
hypothesis.settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'kernels'))


@pytest.fixture(
  params=[path for path in native.available_paths() if path != native.REFERENCE]
  or [pytest.param(None, marks=pytest.mark.skip('no native kernels'))]
)
def path(request):
  """Each native path of this CPU in turn."""
  native.force(request.param)
  yield request.param
  native.force(native.available_paths()[0])
