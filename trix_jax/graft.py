"""Graft tiles of other runs into a model; the same program as `trix graft`. See trix_jax/cli/graft.py."""

from trix_jax.cli import launcher

if __name__ == '__main__':
  launcher.launch('trix_jax.cli.graft')
