"""Evaluate a run under every routing; the same program as `trix eval`. See trix_jax/cli/evaluate.py."""

from trix_jax.cli import launcher

if __name__ == '__main__':
  launcher.launch('trix_jax.cli.evaluate')
