"""Draw the report's figures as SVG in the page's text colour, so that they are legible on light and dark pages."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure

from experiments.claims import estimates
from trix_jax.evaluation import classes
from trix_jax.inspection import plots

Rows = Sequence[dict[str, Any]]

# This colour stands for the page's own until the SVG is text.
INK = '#010203'
# Okabe and Ito's colours. Readers with any colour vision can tell them apart, on white and on black.
COLOURS = ('#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#999999', '#b8a800')
STYLES = ('-', '--', ':')
# Differences of loss up to this many nats have a linear scale, even next to much larger ones.
LINEAR = 0.05
# The frontier leaves out what is lost below this many nats, which seeds do not tell from nothing.
LEAST_LOSS = 0.003

rcParams.update(
  {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'trix',
    'font.size': 9,
    'font.family': 'sans-serif',
    **dict.fromkeys(
      ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'axes.titlecolor', 'xtick.color', 'ytick.color'), INK
    ),
    'axes.spines.top': False,
    'axes.spines.right': False,
  }
)


def svg(figure: Figure) -> str:
  """Return the figure as an element of a page."""
  buffer = io.StringIO()
  figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  text = buffer.getvalue().replace(INK, 'currentColor')
  return text[text.index('<svg') :]


def _figure(rows: int = 1, columns: int = 1, width: float = 3.4, height: float = 2.6):
  figure = Figure(figsize=(width * columns, height * rows), layout='constrained')
  return figure, figure.subplots(rows, columns, squeeze=False)


def _style(place: int) -> dict[str, Any]:
  return {'color': COLOURS[place % len(COLOURS)], 'linestyle': STYLES[place // len(COLOURS) % len(STYLES)]}


def loss_curves(rows: Rows, variants: Sequence[str]) -> Figure:
  """Draw validation loss over the text seen, mean over seeds, with the least and the most as a band."""
  figure, [[ax]] = _figure(width=6.4, height=3.4)
  for place, variant in enumerate(variants):
    of = [row for row in rows if row['variant'] == variant]
    if not of:
      continue
    steps = np.array([step for step, _ in of[0]['curves']['validation_loss']])
    last = of[0]['curves']['validation_loss'][-1][0]
    losses = np.array([[loss for _, loss in row['curves']['validation_loss']] for row in of])
    tokens = (of[0]['tokens'] - of[0]['tokens_of_run'] * (1 - steps / last)) / 1e6
    ax.plot(tokens, losses.mean(axis=0), label=variant, linewidth=1.4, **_style(place))
    ax.fill_between(
      tokens, losses.min(axis=0), losses.max(axis=0), alpha=0.2, linewidth=0, color=_style(place)['color']
    )
  # The end matters, and all curves start alike.
  ends = [row['curves']['validation_loss'] for row in rows]
  ax.set_ylim(min(row['loss'] for row in rows) - 0.02, float(np.median([curve[0][1] for curve in ends])))
  ax.set(xlabel='million characters seen', ylabel='validation loss, nats')
  ax.legend(frameon=False, ncols=2 if len(variants) > 4 else 1, fontsize=8)
  return figure


def tile_loads(row: dict[str, Any]) -> Figure:
  """Draw every tile's share of validation tokens over training, with a panel for each layer."""
  history = row['curves']['tile_load']
  steps, loads_SYT = [step for step, _ in history], np.array([load for _, load in history])
  figure, [axes] = _figure(columns=loads_SYT.shape[1], width=1.9, height=2.0)
  for layer, ax in enumerate(axes):
    plots.draw_load(ax, steps, loads_SYT[:, layer], colors=COLOURS, alpha=0.85)
    ax.set(title=f'layer {layer}', yticks=[0, 0.5, 1], ylabel='share of tokens' if layer == 0 else '')
  return figure


def signatures(layers: Sequence[Any]) -> Figure:
  """Draw signatures, with a line for each tile and a panel for each layer."""
  figure, axes = _figure(rows=len(layers), width=6.4, height=0.9)
  for layer, (row, signature_TD) in enumerate(zip(axes, layers, strict=True)):
    most = np.abs(signature_TD).max()
    row[0].imshow(signature_TD, aspect='auto', cmap='RdBu', vmin=-most, vmax=most, interpolation='nearest')
    row[0].set(ylabel=f'layer {layer}', yticks=range(len(signature_TD)), xticks=[])
  axes[-1][0].set(xticks=range(0, len(layers[0][0]), 16), xlabel='input dimension')
  return figure


def class_tiles(specialisation: dict[str, Any], names: Sequence[str] = classes.CLASSES) -> Figure:
  """Draw for each layer the share of every class that goes to each tile, in % if there is room."""
  counts_YCT = [np.asarray(counts, float) for counts in specialisation['counts']]
  present = [place for place in range(len(names)) if counts_YCT[0][place].sum()]
  figure, [axes] = _figure(columns=len(counts_YCT), width=1.9, height=1.9)
  for layer, (ax, counts_CT) in enumerate(zip(axes, counts_YCT, strict=True)):
    share_CT = plots.draw_classes(ax, counts_CT[present], [names[place] for place in present])
    for (place, tile), share in np.ndenumerate(share_CT) if share_CT.shape[1] <= 8 else ():
      ax.text(
        tile,
        place,
        f'{100 * share:.0f}',
        ha='center',
        va='center',
        fontsize=6 if share_CT.shape[1] > 4 else 8,
        color='black' if share > 0.6 else 'white',
      )
    ax.set(title=f'layer {layer}')
    if layer:
      ax.set_yticklabels([])
  return figure


def information(rows: Rows, variants: Sequence[str]) -> Figure:
  """Draw the normalised mutual information of each layer, a point for each seed, and the most by chance as a line."""
  figure, [[ax]] = _figure(width=6.4, height=2.6)
  labels, place = [], 0
  for colour, variant in enumerate(variants):
    of = [row['specialisation'] for row in rows if row['variant'] == variant and 'specialisation' in row]
    for layer in range(len(of[0]['information']) if of else 0):
      values, chance = [s['information'][layer] for s in of], [s['null'][layer]['most'] for s in of]
      ax.plot([place] * len(values), values, 'o', markersize=4, color=COLOURS[colour % len(COLOURS)], alpha=0.8)
      ax.plot([place - 0.35, place + 0.35], [max(chance)] * 2, color=INK, linewidth=1.2)
      labels.append((place, f'{variant}' if layer == 0 else ''))
      place += 1
    place += 1
  ax.set(ylabel='mutual information', xticks=[at for at, _ in labels], ylim=(0, None))
  ax.set_xticklabels([text for _, text in labels], rotation=30, ha='right')
  return figure


def against(rows: Rows, of_variant: dict[str, tuple[str, float]], xlabel: str) -> Figure:
  """Draw loss against the number that the variants vary, with a line for each family and a point for each seed.

  Args:
    rows: of the suite.
    of_variant: family and number of each variant.
    xlabel: name of the number.
  """
  figure, [[ax]] = _figure(width=5.2, height=3.2)
  for place, family in enumerate(dict.fromkeys(name for name, _ in of_variant.values())):
    points = []
    for variant, (name, number) in of_variant.items():
      if name == family and (values := list(estimates.losses(rows, variant).values())):
        points.append((number, float(np.mean(values))))
        ax.plot([number] * len(values), values, 'o', markersize=3, alpha=0.6, color=_style(place)['color'])
    if points:
      ax.plot(*zip(*sorted(points), strict=True), label=family, **_style(place))
  numbers = sorted({number for _, number in of_variant.values()})
  ax.set(xlabel=xlabel, ylabel='validation loss, nats', xscale='log' if numbers[0] > 0 else 'linear')
  ax.set_xticks(numbers, labels=[f'{number:g}' for number in numbers])
  ax.minorticks_off()
  ax.legend(frameon=False)
  return figure


def frontier(rows: Rows) -> Figure:
  """Draw what carved models lose over the part of the dense layer's products that they compute, routing included."""
  figure, [[ax]] = _figure(width=9.0, height=3.8)
  lines: dict[tuple[str, float], dict[int, list[tuple[float, float]]]] = {}
  for row in rows:
    whole, *carved = row['carved']
    for of in carved:
      if of['partition'] == 'rows' and of['route'] not in ('random_keys', 'remainder'):
        # A line has one part of the units and other numbers of tiles, or shares and other parts.
        route, _, share = of['route'].partition('share_')
        route, part, step = ('share', 0.0, share) if share else (route, of['kept'] / of['tiles'], of['tiles'])
        point = of['products'] / whole['products'], of['loss'] - whole['loss']
        lines.setdefault((route, part), {}).setdefault(step, []).append(point)
  routes = list(dict.fromkeys(route for route, _ in lines))
  for (route, part), line in sorted(lines.items(), key=lambda item: (routes.index(item[0][0]), item[0][1])):
    cost, lost = np.array([np.mean(line[tiles], axis=0) for tiles in sorted(line)]).T
    units = f'{part:.1%} of the units' if part else "a token's own number of units"
    label = f'{route.replace("_", " ")}, {units}'
    look = _style(len(ax.get_lines())) | {'marker': 'osD^v'[routes.index(route) % 5], 'markersize': 4}
    ax.plot(cost, lost, label=label, linewidth=1.0, **look)
  ax.set(
    xlabel="products of a token, part of the dense layer's",
    ylabel='loss less that of the dense model, nats',
    yscale='log',
    ylim=(LEAST_LOSS, None),
  )
  ax.legend(frameon=False, fontsize=7, loc='upper left', bbox_to_anchor=(1.0, 1.0))
  return figure


def oracle(rows: Rows, variants: Sequence[str]) -> Figure:
  """Draw for the last layer what ways to choose lose, less what was routed, and how often they take the best tile."""
  shown = [name for name in variants if any(row['variant'] == name for row in rows)]
  figure, axes = _figure(columns=2, width=4.2, height=0.9 + 0.3 * len(shown))
  marks = {'borrowed': ('x', 'oracle of changes that fit other tokens'), 'oracle': ('o', 'oracle')}
  chosen = {'fitted': ('D', 'fitted gate'), 'by_character': ('s', 'table by character'), 'routed': ('o', 'routed')}
  lost, taken = axes[0]
  colours = dict(zip((*marks, *chosen), COLOURS, strict=False))

  def draw(ax, key, values, place):
    mark, label = (marks | chosen)[key]
    of = {'marker': mark, 'color': colours[key], 'linestyle': '', 'markersize': 4, 'alpha': 0.8}
    ax.plot(values, [place] * len(values), label='' if place else label, **of)

  for place, name in enumerate(shown):
    last = [row['best_tiles'][-1] for row in rows if row['variant'] == name]
    for key in marks:
      draw(lost, key, [of[key] - of['routed'] for of in last], place)
    for key in ('fitted', 'by_character'):
      draw(lost, key, [of['ways'][key]['loss'] - of['routed'] for of in last], place)
    for key in ('routed', 'fitted', 'by_character'):
      draw(taken, key, [100 * of['ways'][key]['best'] for of in last], place)
    chance = 100 * last[0]['ways']['uniform']['best']
    taken.plot([chance] * 2, [place - 0.3, place + 0.3], color=INK, label='' if place else 'chance')
  lost.axvline(0, color=INK, linewidth=0.8, linestyle=':')
  lost.set(xlabel='loss less that of the routing, nats', yticks=range(len(shown)), yticklabels=shown)
  taken.set(xlabel='% of tokens with the best tile', yticks=[], xlim=(0, None))
  for ax in axes[0]:
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.legend(frameon=False, fontsize=7, loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=2)
  return figure


def stand_ins(rows: Rows, titles: Mapping[str, str]) -> Figure:
  """Draw what models lose when tiles of another model stand in, mean over layers, with a point for each seed.

  `titles` says of each variant whose tiles stand in.
  """
  shown = [name for name in titles if any(row['variant'] == name and row['stand_ins'] for row in rows)]
  figure, [axes] = _figure(columns=max(1, len(shown)), width=3.8, height=2.8)

  def lose(layer, label):
    if label in ('no tile', 'own tile, most similar'):
      return layer['silent' if label == 'no tile' else 'own']
    way, kind = label.split(': ')
    return layer['pairs'][way.replace(', by ', '_')][kind]

  for ax, name in zip(axes, shown, strict=False):
    of = [row['stand_ins'] for row in rows if row['variant'] == name]
    ways = [way.replace('_', ', by ') for way in of[0][0]['pairs']]
    lines = ['no tile', 'own tile, most similar', *(f'{way}: {kind}' for way in ways for kind in ('matched', 'others'))]
    for place, label in enumerate(lines):
      points = [float(np.mean([lose(layer, label) for layer in layers])) for layers in of]
      ax.plot(points, [place] * len(points), 'o', markersize=4, alpha=0.8, color=COLOURS[place // 2 % len(COLOURS)])
    ax.set(xlabel='nats lost', yticks=range(len(lines)))
    ax.set_title(titles[name], fontsize='small')
    ax.axvline(0, color=INK, linewidth=0.8, linestyle=':')
    ax.set_yticklabels(lines if ax is axes[0] else [])
    ax.invert_yaxis()
    ax.grid(axis='x', alpha=0.2)
  return figure


def correlations(groups: Mapping[str, Mapping[str, estimates.Estimate]]) -> Figure:
  """Draw rank correlations of what was read with the loss that it should predict, with intervals."""
  figure, ax, place = _intervals(groups)
  ax.set(xlabel="Spearman's correlation with the loss", ylim=(place - 0.4, -0.6), xlim=(-1.05, 1.05))
  return figure


def grafts(rows_of: Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]]) -> Figure:
  """Draw R and F of each key with 95 % intervals, by token and by running mean; hollow for one seed."""
  figure, [axes] = _figure(columns=2, width=3.4, height=3.4)
  keys, scores = (list(dict.fromkeys(way[part] for way in rows_of)) for part in (0, 1))
  for (key, of_scores), rows in rows_of.items():
    place = scores.index(of_scores)
    for ax, name in zip(axes, ('R', 'F'), strict=True):
      of = estimates.estimate([row[name] for row in rows.values()])
      ax.errorbar(
        of.mean,
        keys.index(key) + 0.25 * place,
        xerr=None if of.seeds == 1 else of.half_width,
        fmt='os'[place],
        markersize=4,
        capsize=2,
        color=COLOURS[place],
        markerfacecolor='none' if of.seeds == 1 else None,
        label=f'by {"token" if of_scores == "token" else "running mean"}' if key == keys[0] else None,
      )
  labels = [key.replace('_', ' ') for key in keys]
  axes[0].set_yticks(range(len(keys)), labels=labels)
  axes[0].set(xlabel='R, part of the gain on the new text')
  axes[1].set_yticks(range(len(keys)), labels=[])
  axes[1].set_xscale('symlog', linthresh=LINEAR)
  axes[1].set_xticks([0, 0.05, 0.2, 1])
  axes[1].xaxis.set_major_formatter('{x:g}')
  axes[1].minorticks_off()
  axes[1].set(xlabel='F, nats lost on the text of the host')
  for ax in axes:
    ax.invert_yaxis()
    ax.grid(axis='x', alpha=0.2)
    ax.tick_params(axis='y', length=0)
  axes[1].legend(frameon=False, fontsize=8)
  return figure


def changes(rows: Rows, variants: Sequence[str]) -> Figure:
  """Draw the share of tokens whose tile changed since the checkpoint before, mean over layers and seeds."""
  return _shares(
    rows,
    variants,
    lambda row: [(pair['to'], np.mean(pair['changed'])) for pair in row['stability']],
    '% of tokens that changed tile',
    10,
  )


def diversity(rows: Rows, variants: Sequence[str]) -> Figure:
  """Draw the diversity of signatures over training, mean over layers and seeds."""
  return _shares(
    rows,
    variants,
    lambda row: [(step, np.mean(of)) for step, of in row['curves']['diversity']],
    '% of entries that differ',
    30,
  )


def _shares(
  rows: Rows,
  variants: Sequence[str],
  curve_of: Callable[[dict[str, Any]], Sequence[tuple[int, float]]],
  ylabel: str,
  limit: float,
) -> Figure:
  """Draw shares over steps in %, as mean and range over a variant's seeds, and the limit of a claim."""
  figure, [[ax]] = _figure(width=5.2, height=3.0)
  for place, label in enumerate(variants):
    if of := [curve_of(row) for row in rows if row['variant'] == label]:
      share_SP = 100 * np.array([[share for _, share in curve] for curve in of])
      steps = [step for step, _ in of[0]]
      ax.plot(steps, share_SP.mean(axis=0), marker='.', label=label, **_style(place))
      ax.fill_between(
        steps, share_SP.min(axis=0), share_SP.max(axis=0), alpha=0.2, linewidth=0, color=_style(place)['color']
      )
  ax.axhline(limit, color=INK, linewidth=0.8, linestyle=':')
  ax.set(xlabel='step', ylabel=ylabel, ylim=(0, None))
  ax.legend(frameon=False)
  return figure


def differences(groups: Mapping[str, Mapping[str, estimates.Estimate]]) -> Figure:
  """Draw differences of loss with intervals, a line each, under the heads of their groups; hollow for one seed."""
  figure, ax, place = _intervals(groups)
  label = 'nats to what it is held against; left is better'
  if max(map(abs, ax.get_xlim())) > 2 * LINEAR:  # This keeps a large difference from hiding the others.
    ax.set_xscale('symlog', linthresh=LINEAR)
    label += f'\n(logarithmic beyond {LINEAR:g})'
    ticks_x = [-0.1, -0.04, -0.02, 0, 0.02, 0.04, 0.1, 0.2, 0.5, 1, 2, 5]
    low, high = ax.get_xlim()
    ax.set_xticks([at for at in ticks_x if low <= at <= high])
    ax.xaxis.set_major_formatter('{x:g}')
  ax.set(xlabel=label, ylim=(place - 0.4, -0.6))
  ax.minorticks_off()
  return figure


def _intervals(groups: Mapping[str, Mapping[str, estimates.Estimate]]):
  """Draw estimates with their intervals. Return the figure, its axes and the number of lines."""
  lines = sum(len(group) + 1 for group in groups.values())
  figure, [[ax]] = _figure(width=6.4, height=0.6 + 0.2 * lines)
  place, ticks = 0, []
  for colour, (head, group) in enumerate(groups.items()):
    if head:
      ticks.append((place, head, 'bold'))
    for name, of in group.items():
      place += 1
      one = of.seeds == 1
      ax.errorbar(
        of.mean,
        place,
        xerr=None if one else of.half_width,
        fmt='o',
        markersize=4,
        capsize=2,
        linewidth=1.2,
        color=COLOURS[colour % len(COLOURS)],
        markerfacecolor='none' if one else None,
      )
      ticks.append((place, name, 'normal'))
    place += 1
  ax.axvline(0, color=INK, linewidth=0.8, linestyle=':')
  ax.set_yticks([at for at, _, _ in ticks], labels=[name for _, name, _ in ticks])
  for label, (_, _, weight) in zip(ax.get_yticklabels(), ticks, strict=True):
    label.set_fontweight(weight)
  ax.tick_params(axis='y', length=0)
  ax.grid(axis='x', alpha=0.2)
  return figure, ax, place
