"""What the pages promise: their links, the README's length, its commands."""

import pathlib
import pkgutil
import re
import tomllib

import pytest

import xla_kernels
from trix_jax.cli import arguments, launcher

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('[!.]*/README.md'), *(ROOT / 'docs').rglob('*.md')])
README = (ROOT / 'README.md').read_text()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
  text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
  links = [link for link in re.findall(r'\]\(([^)\s]+)\)', text) if not re.match(r'\w+:|#', link)]
  missing = [link for link in links if not (page.parent / link.partition('#')[0]).exists()]
  assert not missing, missing


def test_the_readme_is_short_and_has_the_two_commands():
  assert len(README.split()) <= 900
  for command in (
    'pip install -e . && python train.py --config=configs/quickstart.py --workdir=runs/quickstart',
    "pip install -e '.[test]' && pytest",
    "python generate.py --model=models/shakespeare.safetensors --prompt='ROMEO:'",
  ):
    assert f'\n    {command}\n' in README


def test_the_commands_that_pages_show_exist():
  shown = [command for page in PAGES for command in re.findall(r'\btrix (\w+) --[\w.]+=', page.read_text())]
  assert set(shown) == set(launcher.PROGRAMS)
  configs = [name for page in PAGES for name in re.findall(r'\btrix train --config=(\w+)(?=\s|`)', page.read_text())]
  assert configs and set(configs) <= set(arguments.shipped_configs())


def test_the_api_page_names_every_operation():
  page = (ROOT / 'docs/api/xla_kernels.md').read_text()
  functions = [name for name in xla_kernels.__all__ if not name.startswith('MAX_')]
  assert [name for name in functions if f'::: xla_kernels.{name}\n' not in page] == []


@pytest.mark.parametrize('page', sorted((ROOT / 'docs/api').glob('*.md')), ids=lambda page: page.stem)
def test_what_the_api_pages_name_exists(page):
  """The site drops names that are not there without a word."""
  sections = re.split(r'^::: ', page.read_text(), flags=re.M)[1:]
  assert sections
  for section in sections:
    name = section.split()[0]
    of = pkgutil.resolve_name(name)
    listed = re.search(r'members:((?:\s+- \w+)+|\s*\[[^\]]*\])', section)
    for member in re.findall(r'\w+', listed[1]) if listed else ():
      assert hasattr(of, member), f'{name}.{member}'


def test_the_version_has_its_changes():
  version = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']
  assert f'## [{version}]' in (ROOT / 'CHANGELOG.md').read_text()
