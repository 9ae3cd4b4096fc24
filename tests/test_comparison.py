import pathlib
import runpy

PATH = pathlib.Path(__file__).parent.parent / 'experiments' / 'comparison.py'


def test_gaps_are_paired_by_seed():
  table = runpy.run_path(str(PATH))['table']
  losses = {'emergent': {0: 1.0, 1: 2.0}, 'dense': {0: 1.5, 1: 2.1, 2: 9.0}, 'learned': {}}
  rows = [{'variant': name, 'seed': seed, 'loss': loss} for name, of in losses.items() for seed, loss in of.items()]
  _, emergent, dense, learned = (line.split() for line in table(rows, list(losses), 'emergent').splitlines())
  assert emergent == ['emergent', '2', '1.5000', '0.7071']
  assert dense == ['dense', '3', '4.2000', '4.1677', '+0.3000', '0.2828']  # Seed 2 has no partner.
  assert learned == ['learned', '0']
