"""The counts behind the roofline agree with what is compiled."""

import re

import jax
import numpy as np
import pytest
import roofline
from tiers import fast_first

import xla_kernels
from trix_jax import configuration
from trix_jax.inference import forward, weights
from trix_jax.nn import model_config, transformer

V, CONTEXT = 11, 24


def inference_config(**settings):
  model = {'layers': 2, 'd_model': 32, 'heads': 2, 'context': CONTEXT, 'd_ff': 64, 'tiles': 4, **settings}
  return weights.InferenceConfig(model_config.parse_model(model), V)


@pytest.mark.parametrize(
  'settings',
  fast_first(
    [
      {'address': 'token', 'top_k': 2, 'tiles': 8},
      {'form': 'reference'},
      {'routing': 'dense', 'gate': 'one_hot'},
      {'projections': 'ternary'},
      {'tiles': 16, 'clusters': 4, 'probes': 2},
    ]
  ),
)
def test_a_step_makes_as_many_calls_as_are_counted(settings):
  if xla_kernels.active_path() == 'reference':
    pytest.skip('the reference makes no calls')
  config = inference_config(**settings)
  shapes = {name: jax.ShapeDtypeStruct(entry.shape, entry.dtype) for name, entry in weights.layout(config).items()}

  def step(arrays, token_BL):
    cache = forward.empty_cache(forward.PACKED, config, 3, CONTEXT)
    hidden, _, cache = forward.forward(forward.PACKED, config, arrays, token_BL, cache)
    return forward.logits(arrays, hidden), cache

  text = jax.jit(step).lower(shapes, jax.ShapeDtypeStruct((3, 1), np.int32)).compile().as_text()
  calls = re.findall(r'custom_call_target="trix_', text)
  assert len(calls) == sum(part.calls for part in roofline.count_forward(config, 3, 1))


def test_bytes_of_a_batch_that_reads_every_tile_are_those_of_the_model():
  config = inference_config()
  counted = sum(part.bytes for part in roofline.count_forward(config, rows=10_000, new=1))
  assert counted == pytest.approx(
    sum(weights.count_bytes(config).values())
    - V * (32 + 4)  # The embedding's rows count once a token that asks for them.
    - 4 * (V + 2 * 4 * 32 + 2 * 4)  # And scales of projections and of keys do not count.
    + 10_000 * (32 + 4)
    + 2 * 10_000 * 2 * (1 * (32 + 2 * 4))  # Keys and values of one token in two layers.
    + 2 * 2 * 2 * 3 * 10_000 * 32 * 4,  # The convolutions' inputs, read and written.
    rel=1e-6,
  )


def test_operations_of_training_are_those_of_the_compiled_products():
  settings = configuration.default_config()
  settings.model.update({'layers': 1, 'routing': 'dense', 'gate': 'one_hot', 'context': 256})
  settings.loss.balance_weight = 0.0
  settings.training.batch_size = 1
  config = configuration.parse(settings)
  model = transformer.TransformerLM(config.model, 65)
  counted = sum(part.operations for part in roofline.count_training(config, 65) if part.name != 'optimiser')
  shapes = jax.eval_shape(lambda: transformer.init(model, jax.random.key(0))[0])
  tokens = jax.ShapeDtypeStruct((1, 256), np.int32)
  forward_pass = jax.jit(lambda params, token_BL: transformer.apply(model, params, {}, token_BL)[0]).lower(
    shapes, tokens
  )
  # The compiler's also has norms, and the masked half of attention's blocks on the diagonal.
  assert counted == pytest.approx(3 * forward_pass.compile().cost_analysis()['flops'], rel=0.1)
