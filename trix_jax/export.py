"""Pack a trained model into one file; the same program as `trix export`. See trix_jax/cli/export.py."""

from trix_jax.cli import launcher

if __name__ == '__main__':
  launcher.launch('trix_jax.cli.export')
