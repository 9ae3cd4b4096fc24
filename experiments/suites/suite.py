"""Tables of the suites and the runs that each compares. A run is `recipe.py` with settings of a budget and a variant.

A setting that names a variant in braces, such as `{dense}`, stands for that variant's workdir with the same seed.
"""

import dataclasses
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trix_jax.core import routing

Settings = Mapping[str, Any]

CONFIG = 'experiments/recipe.py'
# This stands for the file of `patterns.text`.
PATTERNS = '{patterns}'
# Settings that variants give as multiples of the budget's.
SCALED = ('training.steps', 'training.batch_size')
# A run that starts from another adds this to its seed, so that it does not see the same windows again.
LATER_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Budget:
  """An amount of training.

  Attributes:
    settings: of every run.
    seeds: 0 to this, exclusive.
    variants: number of variants of each suite, from the first; None for all.
    large: whether the budget includes variants for a GPU.
  """

  settings: Settings
  seeds: int
  variants: int | None = None
  large: bool = False


# Budgets except the recipe's keep the recipe's former dropout, so that older and newer results are comparable.
BUDGETS = {
  'smoke': Budget(
    {
      'corpus': 'python_stdlib',
      'model.layers': 1,
      'model.d_model': 32,
      'model.heads': 2,
      'model.context': 64,
      'model.dropout': 0.1,
      'training.steps': 8,
      'training.batch_size': 8,
      'training.log_every': 2,
      'training.eval_every': 4,
      'training.checkpoint_every': 4,
    },
    1,
    3,
  ),
  # Half the recipe's layers and steps: three seeds of most suites take two cores at most two hours.
  'small': Budget(
    {
      'model.layers': 2,
      'model.dropout': 0.1,
      'training.steps': 1200,
      'training.batch_size': 16,
      'training.eval_every': 200,
      'training.checkpoint_every': 200,
    },
    3,
  ),
  # The unchanged recipe, for claims about the recipe.
  'recipe': Budget(
    {
      'model.dropout': 0.0,
      'training.steps': 2400,
      'training.batch_size': 16,
      'training.eval_every': 400,
      'training.checkpoint_every': 200,
    },
    5,
  ),
  # The original's four epochs at its batch size, for a GPU.
  'full': Budget(
    {
      'model.dropout': 0.1,
      'training.steps': 15_680,
      'training.batch_size': 256,
      'training.eval_every': 980,
      'training.checkpoint_every': 980,
    },
    5,
    large=True,
  ),
}


@dataclasses.dataclass(frozen=True)
class Suite:
  """A question and the runs that answer it.

  Attributes:
    title: of its section in the report.
    question: the question in one or two sentences.
    variants: settings of each variant.
    against: baseline of a variant, if it is not the first variant; None for no baseline.
    evaluated: variants whose loss is measured under another routing than that of their training.
    measures: names from `measure.MEASURES`, to measure every run beyond its loss.
    base: settings that all variants share.
    large: variants for budgets that include a GPU.
    verdicts: function from the rows so far, which may lack any run, to lines of `verdicts.row`. For suites of this
      repository it is in `verdicts.py`.
    file: file of a user's suite; `own_suites.add` sets it.
  """

  title: str
  question: str
  variants: Mapping[str, Settings]
  measures: tuple[str, ...] = ()
  base: Settings = dataclasses.field(default_factory=dict)
  against: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
  evaluated: Mapping[str, str] = dataclasses.field(default_factory=dict)
  large: tuple[str, ...] = ()
  verdicts: Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]] | None = None
  file: str = ''

  def baseline(self, variant: str) -> str | None:
    """Return the baseline of a variant."""
    first = next(iter(self.variants))
    return self.against.get(variant, first if variant != first else None)


DENSE = {'model.routing': 'dense', 'model.gate': 'one_hot', 'loss.balance_weight': 0.0}
LEARNED = {'model.routing': 'learned'}
RANDOM = {'model.routing': 'random', 'model.gate': 'one_hot', 'loss.balance_weight': 0.0}
BIASED = {'model.balance_bias': True, 'loss.balance_bias_rate': 0.02}
LOSS_FREE = {**BIASED, 'loss.balance_weight': 0.0}


def control(name: str) -> Settings:
  return {'model.control': name}


def tiles(count: int, top_k: int) -> Settings:
  return {'model.tiles': count, 'model.top_k': top_k}


def index(clusters: int, probes: int) -> Settings:
  return {'model.clusters': clusters, 'model.probes': probes, **BIASED}


def scaled_steps(factor: float) -> Settings:
  """Return settings for `factor` times the budget's steps; see `settings_of`."""
  return {'training.steps': factor}


DROPOUTS = {
  'no_dropout': {'model.dropout': 0.0},
  **{f'dropout_{rate}': {'model.dropout': rate} for rate in (0.05, 0.1, 0.2)},
}

# What the numbers in variants' names mean: for `data_efficiency` parts of the budget's steps, for `width` d_model, for
# `dropout` the share that is dropped.
PARTS = ('0.125', '0.25', '0.5', '1')
WIDTHS = (64, 128, 256, 512)
RATES = (0.1, 0.05, 0.0)


def _dense_to_sparse(sizes: Sequence[Any]) -> dict[str, str | None]:
  """Return sparse_SIZE as the baseline of each dense_SIZE, and no baseline for sparse_SIZE."""
  return {
    f'{name}_{size}': f'sparse_{size}' if name == 'dense' else None for size in sizes for name in ('sparse', 'dense')
  }


SUITES = {
  'four_routings': Suite(
    'Four routings',
    'Is routing by reading as good as a learned gate, and better than chance, where each is used in training?',
    {'emergent': {}, 'learned': LEARNED, 'random': RANDOM, 'dense': DENSE},
    ('routings', 'specialisation'),
  ),
  'option_a': Suite(
    'Option A: trained dense',
    'What is left of a densely trained model when a token computes one tile of four?',
    {'dense': DENSE, 'sparse': {}},
    ('routings', 'fitted_gate', 'specialisation'),
  ),
  'option_b': Suite(
    'Option B: trained sparse',
    'Do the tiles of a sparsely trained model stay in use, and their signatures different, as training goes?',
    {'sparse': {}, 'dense': DENSE, 'loss_free': LOSS_FREE},
    ('specialisation', 'passage', 'signatures'),
  ),
  'remedies': Suite(
    'Remedies for dense training',
    'Can a densely trained model be brought to what sparse training from the start gives? Those that start from a '
    'dense model have seen twice the text, as `sparse_twice` has, and keep the gate of 1 that it was trained with. '
    'The text of a teacher is not counted. `tile_dropout` is trained dense; its loss is that with one tile, of the '
    'checkpoint that is best with all.',
    {
      'sparse': {},
      'continued': {'training.start_from': '{dense}', 'model.gate': 'one_hot'},
      'distilled': {'loss.teacher': '{dense}'},
      'sparse_twice': scaled_steps(2),
      'dense': DENSE,
      'continued_distilled': {'training.start_from': '{dense}', 'loss.teacher': '{dense}', 'model.gate': 'one_hot'},
      'gradual': {'training.start_from': '{dense}', 'model.gate': 'one_hot', **control('gradual')},
      'tile_dropout': {**DENSE, **control('tile_dropout')},
    },
    ('routings',),
    against=dict.fromkeys(('continued', 'continued_distilled', 'gradual'), 'sparse_twice') | {'sparse_twice': None},
    evaluated={'tile_dropout': 'emergent'},
  ),
  'tile_count': Suite(
    'Number of tiles',
    'The same hidden units in more and smaller tiles, a quarter of them computed, or one tile only.',
    {
      '4_top_1': {},
      '8_top_2': tiles(8, 2),
      '16_top_4': tiles(16, 4),
      '32_top_8': tiles(32, 8),
      '64_top_16': tiles(64, 16),
      '8_top_1': tiles(8, 1),
      '16_top_1': tiles(16, 1),
      '32_top_1': tiles(32, 1),
      '64_top_1': tiles(64, 1),
    },
    ('specialisation',),
  ),
  'hierarchy': Suite(
    'Sixteen tiles behind an index',
    'Two layers: against four tiles, and without what the indexed layer has. `all_probed` is no index but has its '
    'norm, output scales and averages, which `flat` lacks.',
    {
      '4_tiles': BIASED,
      '16_top_1': {**tiles(16, 1), **index(4, 2)},
      '16_top_4': {**tiles(16, 4), **index(4, 2)},
      'flat': {**tiles(16, 4), **BIASED},
      'all_probed': {**tiles(16, 4), **index(4, 4)},
      'frozen': {**tiles(16, 4), **index(4, 2), 'hierarchy.freeze_after': 0.25},
      'no_average': {**tiles(16, 4), **index(4, 2), 'hierarchy.average_decay': 0.0},
      **{name: {**tiles(16, 4), **index(4, 2), **control(name)} for name in routing.ABLATIONS},
    },
    ('specialisation',),
    {'model.layers': 2},
    {'all_probed': 'flat', **dict.fromkeys(('frozen', 'no_average', *routing.ABLATIONS), '16_top_4')},
  ),
  'six_patterns': Suite(
    'Six patterns',
    'Do six kinds of text go to six tiles, when nobody tells the model that there are six?',
    {'8_tiles': {}, 'learned': LEARNED},
    ('patterns', 'specialisation'),
    {'corpus': 'file', 'file': PATTERNS, 'model.layers': 2, 'model.tiles': 8, **scaled_steps(0.25)},
  ),
  'controls': Suite(
    'Controls',
    'What is it that reading signatures is worth? Each control takes one part of it away, or routes by something '
    'else, and is held against what differs from it in little more: `hash` has no balance loss either, and like '
    '`no_router_gradient` no gradient from routing, neither to signatures nor to activations.',
    {
      'emergent': {},
      'one_hot_gate': {'model.gate': 'one_hot'},
      'no_balance_loss': {'loss.balance_weight': 0.0},
      'no_router_gradient': control('no_router_gradient'),
      'no_signature_gradient': control('no_signature_gradient'),
      'gumbel': control('gumbel'),
      'hash': {**control('hash'), 'loss.balance_weight': 0.0},
      'random_keys': control('random_keys'),
      'kmeans_keys': control('kmeans_keys'),
      'learned': LEARNED,
    },
    ('specialisation',),
    against={'no_router_gradient': 'no_balance_loss', 'hash': 'one_hot_gate'},
  ),
  'stability': Suite(
    'Stability',
    'How many tokens change their tile from one checkpoint to the next?',
    {'emergent': {}, 'learned': LEARNED},
    ('stability',),
  ),
  'data_efficiency': Suite(
    'Data efficiency',
    'Loss against text seen, sparse and dense; each run has a schedule of its own length.',
    {
      f'{name}_{part}': {**settings, **scaled_steps(float(part))}
      for part in PARTS
      for name, settings in (('sparse', {}), ('dense', DENSE))
    },
    against=_dense_to_sparse(PARTS),
  ),
  'width': Suite(
    'Width',
    'Does what sparsity costs grow or shrink with the width of the model?',
    {
      f'{name}_{width}': {**settings, 'model.d_model': width, 'model.d_ff': 4 * width}
      for width in WIDTHS
      for name, settings in (('sparse', {}), ('dense', DENSE))
    },
    against=_dense_to_sparse(WIDTHS),
    large=('sparse_512', 'dense_512'),
  ),
  'shape': Suite(
    'Shape',
    'The same number of parameters in half as many layers, with more hidden units.',
    {
      f'{layers}_layers_of_{d_ff}': {'model.layers': layers, 'model.d_ff': d_ff}
      for layers, d_ff in ((4, 512), (2, 1280))
    },
  ),
  'dropout': Suite(
    'Dropout',
    'Does what sparsity costs depend on how much dropout there is?',
    {
      f'{name}_{rate}': {**settings, 'model.dropout': rate}
      for rate in RATES
      for name, settings in (('sparse', {}), ('dense', DENSE))
    },
    against=_dense_to_sparse(RATES),
  ),
  'dense_twin': Suite(
    'The dense twin, tuned by itself',
    'Would dense training want other settings than the sparse recipe has?',
    {
      'dense': DENSE,
      **{
        f'{name}_{value}': {**DENSE, f'{section}.{name}': value}
        for section, name, value in (
          ('optimizer', 'learning_rate', 0.01),
          ('optimizer', 'weight_decay', 0.4),
          ('optimizer', 'learning_rate', 0.04),
          ('optimizer', 'weight_decay', 0.1),
        )
      },
      **{name: {**DENSE, **settings} for name, settings in DROPOUTS.items()},
    },
  ),
  'recipe': Suite(
    'The recipe and its parts',
    'The recipe with one part changed at a time.',
    {
      'recipe': {},
      'sign_signatures': {'model.signature': 'sign'},
      'one_hot_gate': {'model.gate': 'one_hot'},
      'relu': {'model.activation': 'relu'},
      'threshold': {'model.quantiser': 'threshold'},
      'float_activations': {'model.int8_activations': False},
      'loss_free': LOSS_FREE,
      '16_top_4': tiles(16, 4),
      '8_top_2': tiles(8, 2),
      **DROPOUTS,
      'decay_to_0_late': {'optimizer.weight_decay_fraction': 0.5},
      'adamw': {'optimizer.name': 'adamw', 'optimizer.learning_rate': 2e-3},
      'double_batch': {'training.batch_size': 2, **scaled_steps(0.5)},
      'twice_as_long': scaled_steps(2),
    },
    ('specialisation',),
    against={'twice_as_long': None},
  ),
}


def variants_of(suite: Suite, budget: Budget) -> list[str]:
  """List the variants that a budget allows, without those that equal the first one under its settings."""
  first, *others = [name for name in suite.variants if budget.large or name not in suite.large]
  same = settings_of(suite, first, budget, 0)
  return [first, *(name for name in others if settings_of(suite, name, budget, 0) != same)][: budget.variants]


def settings_of(suite: Suite, variant: str, budget: Budget, seed: int) -> dict[str, Any]:
  """Return the settings of a run, with references to other runs unresolved."""
  own = {**suite.base, **suite.variants[variant]}
  own |= {name: max(1, round(own[name] * budget.settings[name])) for name in SCALED if name in own}
  later = LATER_SEED if 'training.start_from' in own else 0
  return {'sample_length': 0, 'training.keep_checkpoints': 20, **budget.settings, **own, 'seed': seed + later}


def raised(error: BaseException, file: str) -> str:
  """Return an error of a user's file as one line, with the line number in the file."""
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, file)]
  if isinstance(error, SyntaxError) and _same(error.filename or '', file):
    lines = [error.lineno]
  where = f'line {lines[-1]}: ' if lines else ''
  message = error.msg if isinstance(error, SyntaxError) else ' '.join(str(error).split())
  return f'{where}{type(error).__name__}' + (f': {message}' if message else '')


def _same(path: str, file: str) -> bool:
  return os.path.abspath(path) == os.path.abspath(file)
