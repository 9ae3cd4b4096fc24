"""The original model and recipe, one tile in four, drawn at random for every token.

  python train.py --config=configs/reference_random.py --workdir=runs/reference_random

Cost and result: PENDING
"""

from trix_jax import configuration


def get_config():
  config = configuration.default_config()
  config.model.update({
      'form': 'reference', 'routing': 'random', 'signature': 'sign', 'gate': 'one_hot', 'quantiser': 'threshold',
      'int8_activations': False, 'activation': 'relu', 'shared_down_scale': True})
  config.optimizer.update({
      'name': 'adamw', 'learning_rate': 6e-4, 'adam_b2': 0.999, 'weight_decay': 0.01, 'warmup_fraction': 0.25})
  config.loss.balance_weight = 0.0
  # The original's epoch of windows at stride 1, four times over, would be 1,027 million characters; see README.md.
  config.training.update({'steps': 15_680, 'batch_size': 256, 'eval_every': 980, 'checkpoint_every': 980})
  return config
