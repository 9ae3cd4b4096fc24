"""Write text with a trained model; the same program as `trix generate`. See trix_jax/cli/generate.py."""

from trix_jax.cli import launcher

if __name__ == '__main__':
  launcher.launch('trix_jax.cli.generate')
