"""Edit the tiles of a trained model; the same program as `trix edit`. See trix_jax/cli/edit.py."""

from trix_jax.cli import launcher

if __name__ == '__main__':
  launcher.launch('trix_jax.cli.edit')
