"""Carve a dense model into tiles; the same program as `trix carve`. See trix_jax/cli/carve.py."""

from trix_jax.cli import launcher

if __name__ == '__main__':
  launcher.launch('trix_jax.cli.carve')
