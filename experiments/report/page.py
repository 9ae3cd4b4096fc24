"""Write one page of all suites in a folder.

The page needs no network. Only its links need other files: the JSON files of the results.
"""

import html
import pathlib
import re
from typing import Any

from experiments import suites, texts
from experiments.claims import estimates, other_programs, verdicts
from experiments.report import figures
from experiments.runner import results_file
from experiments.suites import graft, judgement, many_tiles, transfer
from experiments.texts import patterns
from trix_jax.errors import InputError
from trix_jax.system import files

FILE = 'report.html'
# The number that a suite varies: text, or a setting of the model.
VARIED = {
  'data_efficiency': 'million characters seen',
  'width': 'd_model',
  'tile_count': 'tiles',
  'many_tiles': 'tiles',
  'dropout': 'dropout',
}

ADJUSTED_P = (
  'Adjusted p: the p-value of the t-test behind the interval, corrected by Benjamini and Hochberg over all such tests '
  'of its suite.'
)

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfb; --faint: #6b6b6b; --line: #d8d8d4; --card: #f3f3ef;
  --good: #0a7d4f; --bad: #b3361b; --open: #8a6a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --paper: #16181b; --faint: #9a9a96; --line: #33363a;
  --card: #1f2226; --good: #4cc38a; --bad: #ff8a6b; --open: #e0b84a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid var(--line);
  padding-top: 1rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
a { color: inherit; } nav a { margin-right: .8rem; white-space: nowrap; }
.faint { color: var(--faint); font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; } td.number { white-space: nowrap; }
td.number span { white-space: normal; }
.reproduced, .holds, .better { color: var(--good); font-weight: 600; }
.refuted, .does-not-hold, .worse { color: var(--bad); font-weight: 600; }
.undecided, .not-comparable { color: var(--open); font-weight: 600; }
figure { margin: 1rem 0; overflow-x: auto; } figcaption { color: var(--faint); font-size: .9rem; }
svg { max-width: 100%; height: auto; } code { font-size: .85rem; overflow-wrap: anywhere; }
.passage { font: .95rem/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--card); padding: .8rem; border-radius: .4rem; }
.passage b { font-weight: inherit; border-bottom: 3px solid; border-radius: 2px; }
details summary { cursor: pointer; }
.verdicts th:first-child { width: 42%; }
@media (max-width: 40rem) { svg { max-width: none; }
  .verdicts thead { display: none; } .verdicts tr { display: block; padding: .6rem 0;
  border-bottom: 1px solid var(--line); } .verdicts td { display: block; border: 0; padding: .1rem 0; }
  .verdicts td[data-name]::before { content: attr(data-name) ": "; color: var(--faint); font-weight: 400; } }
"""


def write(folder: pathlib.Path) -> None:
  """Write `report.html` from the results in a folder. Raise InputError when there are none, or any is damaged."""
  results = results_of(folder)
  if not results:
    raise InputError(f'no results of suites in {folder}; run experiments.run first')
  files.write_text(folder / FILE, page(results, other_programs.rows(folder)))


def results_of(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Read the results of the suites in a folder, by name."""
  return {name: results_file.read_whole(path) for name in suites.SUITES if (path := folder / f'{name}.json').exists()}


def _machine(machine: dict[str, Any]) -> str:
  devices = f'{machine["devices"]} {machine["backend"]} device(s)' + (
    f', {machine["device"]}' if 'device' in machine else ''
  )
  return f'{machine["processor"]}, {machine["cores"]} cores, {devices}'


def page(results: dict[str, dict[str, Any]], others: list[dict[str, Any]]) -> str:
  """Return the whole page, for the results of suites by name and the verdicts of other programs."""
  links = ' '.join(f'<a href="#{name}">{html.escape(suites.SUITES[name].title)}</a>' for name in results)
  judged = {name: judgement.judge_suite(name, of['rows']) for name, of in results.items()}
  every = [
    {**verdict, 'suite': name, 'command': results[name]['command']}
    for name, of_suite in judged.items()
    for verdict in of_suite
    if verdict['reported'] != verdicts.NO_CLAIM
  ] + others
  claims = [verdict for verdict in every if verdict['reported'] != verdicts.NOT_ASKED]
  questions = [verdict for verdict in every if verdict['reported'] == verdicts.NOT_ASKED]
  machines = sorted({_machine(row['machine']) for of in results.values() for row in of['rows']})
  versions = sorted({f'JAX {row["versions"]["jax"]}' for of in results.values() for row in of['rows']})
  budgets = sorted({of['budget'] for of in results.values()})
  note = (
    '<p class="refuted">Made with --budget=smoke: nothing was learned, and no figure here means anything.</p>'
    if 'smoke' in budgets
    else ''
  )
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>TriX-JAX: every claim run again</title><style>{STYLE}</style></head><body>
<h1>TriX-JAX: every claim of the original, run again</h1>{note}
<p>Language models of sparse ternary tiles. Losses are nats a character on the whole validation split, best checkpoint;
± is the half width of the 95 % interval of the mean over seeds (Student's t), and differences are paired by seed. A
verdict is on the claim under this repository's recipe, not on the original's figure: that had other layers, AdamW,
<code>sign</code> signatures and 1,028 million characters of text; what was trained here stands with every suite. Of
twenty differences with nothing behind them one will look decided, and where seeds were added to variants because they
lay close, the intervals are a little too narrow. {_correction([*claims, *questions], list(judged.values()))} Budget:
{html.escape(', '.join(budgets))}. Trained on: {html.escape('; '.join(machines + versions) or 'nothing yet')}.</p>
<nav>{links}</nav>
<h2 id="verdicts">Claims of the original</h2>{verdict_table(claims)}
<h2 id="questions">Questions it did not ask</h2>{verdict_table(questions)}
{''.join(section(name, of, judged[name]) for name, of in results.items())}
</body></html>
"""


def _correction(shown: list[dict[str, Any]], judged: list[list[dict[str, Any]]]) -> str:
  """Tell what the correction for many comparisons changes on the page."""
  # `shown` includes the verdicts of other programs. It leaves out differences, about which nobody made a claim.
  every = shown + [verdict for of in judged for verdict in of if verdict['reported'] == verdicts.NO_CLAIM]
  if not (tested := [verdict for verdict in every if verdict['adjusted_p'] is not None]):
    return ''
  against = sum(verdicts.is_contradicted(verdict) for verdict in tested)
  return (
    f'An interval of {estimates.SEEDS_OF_TEST} seeds or more has an adjusted p beside it. It is the p-value of the '
    'two-sided t-test against the limit that the claim names, or against 0, corrected by Benjamini and Hochberg over '
    'all such tests of its suite. Verdicts follow the intervals; where one is decided and its adjusted p is not below '
    f'{1 - estimates.CONFIDENCE:.2g}, the table says so: in {against} of {len(tested)}.'
  )


def _adjusted_p(verdict: dict[str, Any]) -> str:
  """Write the corrected p-value for a cell, with a word where it contradicts the interval."""
  p = verdict['adjusted_p']
  if p is None:
    return '-'
  # Three digits keep a value below the level from looking like the level.
  text = '&lt; 0.001' if p < 0.001 else f'{p:.3g}'
  return (
    f'{text}<br><span class="undecided">undecided after correction</span>'
    if verdicts.is_contradicted(verdict)
    else text
  )


def verdict_table(rows: list[dict[str, Any]]) -> str:
  """Tabulate claims, the reported value, our value and the verdict; on a phone each is a block."""
  if not rows:
    return '<p class="faint">none yet</p>'
  lines = []
  for of in rows:
    suite = of.get('suite')
    link = (
      (
        f'<details class="faint"><summary><a href="{suite}.json">{suite}.json</a>, by this command</summary>'
        f'<code>{html.escape(of["command"])}</code></details>'
      )
      if suite
      else ''
    )
    why = f'<br><span class="faint">{html.escape(of["why"])}</span>' if of['why'] else ''
    lines.append(
      f'<tr><td>{html.escape(of["claim"])}{why}{link}</td>'
      f'<td data-name="reported">{html.escape(of["reported"])}</td>'
      f'<td data-name="here">{html.escape(of["ours"])}</td><td data-name="adjusted p">{_adjusted_p(of)}</td>'
      f'<td data-name="seeds">{of["seeds"] or "-"}</td>'
      f'<td class="{of["verdict"].replace(" ", "-")}">{html.escape(of["verdict"])}</td></tr>'
    )
  note = f'<p class="faint">{ADJUSTED_P}</p>' if any(of['adjusted_p'] is not None for of in rows) else ''
  return (
    '<table class="verdicts"><thead><tr><th>claim</th><th>reported</th><th>here</th>'
    f'<th>adjusted p</th><th>seeds</th><th>verdict</th></tr></thead><tbody>{"".join(lines)}</tbody></table>{note}'
  )


def section(name: str, results: dict[str, Any], judged: list[dict[str, Any]]) -> str:
  """Return the section of a suite: its question, table, verdicts and figures."""
  suite, rows = suites.SUITES[name], results['rows']
  failed = ''.join(
    f'<li>{html.escape(f["variant"])}, seed {f["seed"]}: {html.escape(f["reason"])}</li>' for f in results['failures']
  )
  failures = f'<h3>Failed runs</h3><ul class="refuted">{failed}</ul>' if failed else ''
  drawn = (
    ''.join(
      f'<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>'
      for caption, picture in pictures(name, rows)
    )
    if rows
    else ''
  )
  text, question = html.escape(_trained(name, rows)), re.sub('`(.+?)`', r'<code>\1</code>', html.escape(suite.question))
  return f"""<h2 id="{name}">{html.escape(suite.title)}</h2><p>{question}</p>
<p class="faint"><code>{html.escape(results['command'])}</code> <a href="{name}.json">{name}.json</a><br>
{text}</p>{failures}
{loss_table(name, rows, judged)}{verdict_table(judged)}{drawn}"""


def _trained(name: str, rows: list[dict[str, Any]]) -> str:
  """Tell the text and the length of training of a suite's first run; the table shows where other runs differ."""
  if not rows:
    return ''
  settings = rows[0]['settings']
  file = settings.get('file', '')
  if text := texts.TEXTS.get(suites.SUITES[name].base.get('file')):
    file = text.words
  corpus = {'file': file, 'python_stdlib': "the source of Python's standard library"}.get(
    settings.get('corpus', ''), 'TinyShakespeare'
  )
  layers = f'{settings["model.layers"]} layers' if 'model.layers' in settings else 'four layers'
  return (
    f'{corpus}; {layers}, {settings["training.steps"]:,} steps of {settings["training.batch_size"]} windows; all '
    'settings stand in the JSON'
  )


def loss_table(name: str, rows: list[dict[str, Any]], judged: list[dict[str, Any]]) -> str:
  """Tabulate parameters, text, loss, dead tiles and the difference to the baseline, a line for each variant."""
  variants, lines = list(suites.SUITES[name].variants), []
  of_claim = {verdict['claim']: verdict for verdict in judged}
  for variant in variants:
    of = [row for row in rows if row['variant'] == variant]
    if not of:
      continue
    losses = estimates.losses(rows, variant)
    mean, baseline = estimates.estimate(list(losses.values())), suites.SUITES[name].baseline(variant)
    gap = estimates.gap(losses, estimates.losses(rows, baseline)) if baseline else None
    difference = '' if gap is None else f'{gap.text(sign=True)} to {baseline}'
    adjusted = '' if gap is None else _adjusted_p(of_claim[f'{variant} against {baseline}'])
    parameters = of[0]['parameters']
    # The recorded count is that of training, but the variant is evaluated in another way.
    otherwise = variant in suites.SUITES[name].evaluated
    cells = (
      mean.seeds,
      f'{parameters["total"]:,}',
      '' if otherwise else f'{parameters["active_per_token"]:,}',
      f'{of[0]["tokens"] / 1e6:.1f}',
      str(mean),
      difference,
      adjusted,
      '' if otherwise else max(sum(row['dead_tiles']) for row in of),
    )
    lines.append(
      f'<tr><td>{html.escape(variant)}</td>' + ''.join(f'<td class="number">{c}</td>' for c in cells) + '</tr>'
    )
  heads = (
    'seeds',
    'parameters',
    'active',
    'million characters',
    'loss',
    'difference',
    'adjusted p',
    'dead tiles, most',
  )
  return (
    '<div class="wide"><table><thead><tr><th>variant</th>'
    + ''.join(f'<th class="number">{html.escape(head)}</th>' for head in heads)
    + f'</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
  )


def pictures(name: str, rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
  """Return captions and figures of a suite."""
  suite = suites.SUITES[name]
  variants, first = list(suite.variants), rows[0]
  one = f'{first["variant"]}, seed {first["seed"]}'
  result: list[tuple[str, str]] = []

  def draw(caption, figure):
    result.append((caption, figures.svg(figure)))

  if name in VARIED:
    draw(
      f'Loss against {VARIED[name]}; every seed is a point.', figures.against(rows, _families(name, rows), VARIED[name])
    )
    if name == 'data_efficiency':
      each = 'million characters that a tile computes'
      draw(
        f'Loss against {each}, a quarter of those seen where one tile of four is computed.',
        figures.against(rows, _families(name, rows, of_tile=True), each),
      )
  else:
    # If a variant is evaluated in another way, its curve and its loss belong to different routings.
    shown = [variant for variant in variants if variant not in suite.evaluated]
    draw('Validation loss; the band is the range over seeds.', figures.loss_curves(rows, shown))
  if gaps := judgement.gaps(name, rows):
    draw('Differences of loss, with 95 % intervals; hollow for one seed.', figures.differences({'': gaps}))
  if 'carved' in suite.measures:
    draw(
      'What carving loses against what is left to compute, in multiply-accumulates with those of routing, mean over '
      'seeds; a line joins sizes that keep the same part of the hidden units.',
      figures.frontier(rows),
    )
  if 'best_tiles' in suite.measures:
    draw(
      'What other choices of the last layer lose or gain against the routing, and how often a choice is the best tile; '
      'every seed is a point.',
      figures.oracle(rows, variants),
    )
  if 'stand_ins' in suite.measures and any(row['stand_ins'] for row in rows):
    draw(
      'What a model loses when tiles of another model stand in for its own, mean over layers; every seed is a point.',
      figures.stand_ins(rows, {variant: transfer.PAIRS.get(variant, variant) for variant in suite.partners}),
    )
  if 'readings' in suite.measures and (read := transfer.correlations(rows)):
    draw(
      'What was read, and the cheapest other ways to tell, by their rank correlation with the loss.',
      figures.correlations(read),
    )
  if rows_of := graft.collect_shown(rows) if 'grafted' in suite.measures else {}:
    draw(
      'R and F of each key, with 95 % intervals; hollow for one seed. The last row is of a named donor.',
      figures.grafts(rows_of),
    )
    donor = next(row for row in rows if row['variant'] == graft.PLAIN and row['grafted'].get('rows'))
    result.append(
      (
        "The host's text, then the donor's in the same window, by the tile that votes send each byte to. The last tile "
        f'is the grafted one: {donor["variant"]}, seed {donor["seed"]}.',
        passage(donor['grafted']['passage']),
      )
    )
  if 'stability' in suite.measures:
    draw(
      'Share of validation tokens whose first tile changed since the checkpoint before; the band is the range over '
      'seeds, and the dotted line the claim.',
      figures.changes(rows, variants),
    )
  if 'signatures' in suite.measures:
    draw(
      'Diversity of signatures over training, the mean share of entries that differ between two tiles; the band is '
      'the range over seeds, and the dotted line the claim.',
      figures.diversity(rows, variants),
    )
  if 'passage' in suite.measures:
    draw(f'Load of the tiles over training: {one}.', figures.tile_loads(first))
    draw(
      f'Signatures at the best checkpoint, the votes of each tile: blue for, red against; {one}.',
      figures.signatures(first['signatures']),
    )
    result.append(
      (
        f'The beginning of the validation text, by the tile that each character goes to: {one}.',
        passage(first['passage']),
      )
    )
  if 'patterns' in suite.measures:
    draw(
      f'Where the characters of each kind of line go: {one}.', figures.class_tiles(first['patterns'], patterns.KINDS)
    )
  if 'specialisation' in suite.measures:
    draw(f'Where the characters of each class go: {one}.', figures.class_tiles(first['specialisation']))
    draw(
      'Normalised mutual information of class and tile, layer by layer, every seed a point; the line is the most '
      'that 200 random tables with the same totals gave.',
      figures.information(rows, variants),
    )
  return result


def _families(name: str, rows: list[dict[str, Any]], of_tile: bool = False) -> dict[str, tuple[str, float]]:
  """Return family and number of every variant of a suite that varies a number.

  With `of_tile` the number of characters is that of a single tile.
  """
  if name == 'many_tiles':
    return many_tiles.FAMILIES
  result = {}
  for row in rows:
    variant, settings = row['variant'], row['settings']
    if name == 'tile_count':
      top_1 = settings.get('model.top_k', 1) == 1 and settings.get('model.tiles', 4) > 4
      result[variant] = ('one computed' if top_1 else 'a quarter computed', settings.get('model.tiles', 4))
    else:
      number = row['tokens'] / 1e6 if name == 'data_efficiency' else settings[f'model.{VARIED[name]}']
      if of_tile and settings.get('model.routing') != 'dense':
        number *= settings.get('model.top_k', 1) / settings.get('model.tiles', 4)
      result[variant] = (variant.split('_')[0], number)
  return result


def passage(of: dict[str, Any]) -> str:
  """Show the text with each character underlined in the colour of its tile, with a block for each layer."""
  blocks = []
  for layer, tiles in enumerate(of['tiles']):
    spans, start = [], 0
    for end in range(1, len(tiles) + 1):
      if end == len(tiles) or tiles[end] != tiles[start]:
        colour = figures.COLOURS[tiles[start] % len(figures.COLOURS)]
        text = html.escape(of['text'][start:end]).replace('\n', '↵\n')
        spans.append(f'<b style="border-color:{colour}" title="tile {tiles[start]}">{text}</b>')
        start = end
    blocks.append(
      f'<details{" open" if layer == 1 or len(of["tiles"]) == 1 else ""}><summary>layer {layer}</summary>'
      f'<div class="passage">{"".join(spans)}</div></details>'
    )
  return ''.join(blocks)
