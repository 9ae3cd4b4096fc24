"""Train a language model; the same program as `trix train`. See trix_jax/cli/train.py."""

from trix_jax.cli import launcher

if __name__ == '__main__':
  launcher.launch('trix_jax.cli.train')
