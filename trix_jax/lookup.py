"""Ask a trained model which tiles answer; the same program as `trix lookup`. See trix_jax/cli/lookup.py."""

from trix_jax.cli import launcher

if __name__ == '__main__':
  launcher.launch('trix_jax.cli.lookup')
