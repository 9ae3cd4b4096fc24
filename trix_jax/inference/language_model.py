"""A trained model, ready to use: load it once, then compute logits or write text.

  model = inference.load('model.safetensors')     # or inference.from_checkpoint(checkpoints.load_trained(...))
  model.logits(model.encode('ROMEO:')[None])      # [1, 6, V]
  model.generate(['ROMEO:', 'JULIET:'], length=200, seed=1)

Use never changes a model, so any number of threads may share one.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import xla_kernels
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.inference import artifact, forward, weights
from trix_jax.inference.weights import InferenceConfig

if TYPE_CHECKING:  # Inference needs none of the training code.
  from trix_jax.runs import checkpoints

# Tokens drawn in one call of a compiled loop: enough to make the call cheap, few enough to show text smoothly.
CHUNK = 32
# An int32 counts steps, and a chunk may run past the length.
MAX_LENGTH = 2**31 - 1 - CHUNK
# At higher temperatures logits differ by less than float32 resolves.
MAX_TEMPERATURE = 1e6


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A language model at inference.

  Attributes:
    config: of the model.
    vocabulary: its characters, or `corpora.BYTES`; a token is an index into it.
    arrays: see `weights.layout`, or `weights.as_trained` for a model computed by XLA.
    computation: `forward.PACKED` or `forward.XLA`.
    provenance: origin of the model: versions, corpus, commit, command, validation loss.
  """

  config: InferenceConfig
  vocabulary: str
  arrays: Mapping[str, Any]
  computation: forward.Computation
  provenance: Mapping[str, Any]

  def encode(self, text: str) -> np.ndarray:
    """Turn text into int32 tokens. Raise InputError, which names them, for characters that the vocabulary lacks."""
    return corpora.encode(text, self.vocabulary)

  def decode(self, tokens: np.ndarray) -> str:
    """Turn tokens into text. Bytes that are no UTF-8 become U+FFFD."""
    return corpora.decode(tokens, self.vocabulary)

  def logits(self, token_BL: np.ndarray | jax.Array) -> jax.Array:
    """Compute the scores of every next token.

    Args:
      token_BL: integers [B, L], 1 <= L <= context.

    Returns:
      float32 [B, L, V]; compiled once for each shape.

    Raises:
      InputError: for another rank, more tokens than the context, or invalid tokens.
    """
    token_BL = _array(token_BL)
    if token_BL.ndim != 2 or not token_BL.size or not np.issubdtype(token_BL.dtype, np.integer):
      raise InputError(f'tokens must be integers of shape [B, L], at least one, not {token_BL.dtype} {token_BL.shape}')
    if token_BL.shape[1] > self.config.model.context:
      raise InputError(f'{token_BL.shape[1]} tokens given to a model of context {self.config.model.context}')
    self._check_tokens(token_BL)
    return forward.whole_text(
      self.computation, self.config, self.arrays, jnp.asarray(token_BL, jnp.int32), jax.random.key(0)
    )[0]  # The key is for random routing.

  def generate(
    self, prompts: Sequence[str | np.ndarray], length: int, *, temperature: float = 0.8, top_k: int = 0, seed: int = 0
  ) -> list[str]:
    """Return the whole texts that `stream` writes after each prompt."""
    if not isinstance(prompts, str):
      prompts = list(prompts)
    pieces = list(self.stream(prompts, length, temperature=temperature, top_k=top_k, seed=seed))
    return [''.join(row) for row in zip(*pieces, strict=True)] if pieces else [''] * len(prompts)

  def stream(
    self, prompts: Sequence[str | np.ndarray], length: int, *, temperature: float = 0.8, top_k: int = 0, seed: int = 0
  ) -> Iterator[list[str]]:
    """Continue each prompt, a few characters at a time.

    A model sees at most `context` tokens. A full row keeps the latest half of them and goes on. Of a longer prompt the
    model sees only the last `context` tokens.

    Args:
      prompts: texts, or int32 tokens, of at least one character each; they may differ in length.
      length: characters, or bytes for a model of bytes, to write after each.
      temperature: divides the logits, up to MAX_TEMPERATURE; 0 takes the likeliest character.
      top_k: draw from the k likeliest characters only; 0 for all.
      seed: prompt i uses seed + i, so a batch does not change its text.

    Yields:
      The next characters of every row. Bytes of an unfinished character wait for the rest of it.

    Raises:
      InputError: before any computation, for an empty prompt, unknown characters or settings out of range.
    """
    if isinstance(prompts, str):
      raise InputError('prompts is one text; give a list of them')
    rows = [self.encode(prompt) if isinstance(prompt, str) else _array(prompt) for prompt in prompts]
    for number, row in enumerate(rows):
      if row.ndim != 1 or not row.size or not np.issubdtype(row.dtype, np.integer):
        raise InputError(f'prompt {number} is empty, or no text and no list of tokens; give at least one character')
      self._check_tokens(row)
    for name, value, most in (
      ('length', length, MAX_LENGTH),
      ('top_k', top_k, 2**31 - 1),
      ('seed', seed, 2**32 - len(rows)),
    ):
      if not isinstance(value, int | np.integer) or not 0 <= value <= most:
        raise InputError(f'{name} = {value!r}; it must be an integer from 0 to {most}')
    if not isinstance(temperature, int | float | np.number) or not 0 <= temperature <= MAX_TEMPERATURE:
      raise InputError(f'temperature = {temperature!r}; it must be a number from 0 to {MAX_TEMPERATURE:g}')
    if not rows or not length:
      return iter(())
    drawn = draw_tokens(self, rows, length, temperature, min(top_k, len(self.vocabulary)), seed)
    return _decode(drawn, [corpora.make_decoder(self.vocabulary) for _ in rows])

  def _check_tokens(self, tokens):
    if tokens.min() < 0 or tokens.max() >= len(self.vocabulary):
      raise InputError(
        f'tokens go from {tokens.min()} to {tokens.max()}; the vocabulary has 0 to {len(self.vocabulary) - 1}'
      )


def from_checkpoint(trained: 'checkpoints.Trained', *, attention: str = '', head: str = '') -> LanguageModel:
  """Pack a trained model; `attention` and `head` as in `weights.InferenceConfig`.

  Raises:
    InputError: for a model that routes at random or has a control, and for unknown precisions.
  """
  if trained.config.model.ffn.way.is_random:
    raise InputError('this model routes at random, which a packed model cannot; pack one of another routing')
  config = InferenceConfig(trained.model.config, len(trained.vocabulary), attention, head)
  arrays = weights.pack(trained.params, trained.routing_state, config)
  return LanguageModel(config, trained.vocabulary, arrays, forward.PACKED, trained.provenance)


def load(path: pathlib.Path | str) -> LanguageModel:
  """Read a file that `save` or `python -m trix_jax.export` wrote. Raise InputError, which says why, for other files."""
  read = artifact.read(pathlib.Path(path))
  arrays = {name: jnp.asarray(array) for name, array in read.arrays.items()}
  return LanguageModel(read.config, read.vocabulary, arrays, forward.PACKED, read.provenance)


def save(model: LanguageModel, path: pathlib.Path | str) -> None:
  """Write a packed model into one file. Raise InputError when the file cannot be written or the model is not packed."""
  if model.computation is not forward.PACKED:
    raise InputError('this model is as it was trained, and a file holds packed ones; give one of from_checkpoint')
  arrays = jax.device_get(dict(model.arrays))
  artifact.write(pathlib.Path(path), artifact.Artifact(model.config, model.vocabulary, arrays, model.provenance))


def as_trained(model: Any, vocabulary: str, params: Any, routing_state: Any) -> LanguageModel:
  """Return a `transformer.TransformerLM` as trained. XLA computes it, under any routing."""
  config = InferenceConfig(model.config, len(vocabulary), 'float32', 'float32')
  return LanguageModel(config, vocabulary, weights.as_trained(params, routing_state, model.config), forward.XLA, {})


def _decode(
  drawn: Iterator[np.ndarray], decoders: list[Callable[[Sequence[int] | np.ndarray, bool], str]]
) -> Iterator[list[str]]:
  """Yield the texts of drawn tokens, and of what decoders kept back."""
  for token_BS in drawn:
    yield [decode(row, False) for decode, row in zip(decoders, token_BS, strict=True)]
  if any(rest := [decode([], True) for decode in decoders]):
    yield rest


def draw_tokens(
  model: LanguageModel, rows: list[np.ndarray], length: int, temperature: float, top_k: int, seed: int
) -> Iterator[np.ndarray]:
  """Yield arrays of tokens [B, S], until every row has `length`."""
  context = model.config.model.context
  texts = [row[-context:].tolist() for row in rows]
  keys_B = jax.vmap(jax.random.key)(np.arange(seed, seed + len(rows), dtype=np.uint32))
  step = 0
  while step < length:
    state = _read(model, texts)
    filled = max(len(text) for text in texts)
    # Draw until a row is full. The token at its last position draws one more.
    until = min(length, step + context - filled + 1)
    for token_BS in _chunks(model, state, keys_B, step, until, temperature, top_k):
      step += token_BS.shape[1]
      for text, tokens in zip(texts, token_BS, strict=True):
        text.extend(tokens.tolist())
      yield token_BS
    texts = [text[-_half(context) :] if len(text) > context else text for text in texts]


def _array(tokens: Any) -> np.ndarray:
  try:
    return np.asarray(tokens)
  except ValueError as error:  # The rows have different lengths.
    raise InputError(f'tokens are no array: {error}') from error


def _half(context: int) -> int:
  return max(1, context // 2)


def _chunks(model, state, keys_B, step, until, temperature, top_k):
  """Yield the tokens of the steps from `step` to `until`. The device computes one chunk ahead of the caller."""
  pending: list[tuple[jax.Array, int]] = []
  while step < until or pending:
    if step < until:
      tokens, state = decode_chunk(
        model.computation,
        model.config,
        model.arrays,
        state,
        keys_B,
        np.int32(step),
        np.float32(temperature),
        np.int32(top_k or len(model.vocabulary)),
      )
      pending.append((tokens, min(CHUNK, until - step)))
      step += pending[-1][1]
      if len(pending) < 2 and step < until:
        continue
    tokens, count = pending.pop(0)
    yield np.asarray(tokens)[:, :count]


def _read(model, texts):
  """Return cache and logits after the prompts."""
  # Only two lengths compile: a whole context, or half of one, which is also the part that a full row keeps.
  context, longest = model.config.model.context, max(len(text) for text in texts)
  token_BL = np.zeros((len(texts), context if longest > _half(context) else _half(context)), np.int32)
  for row, text in enumerate(texts):
    token_BL[row, : len(text)] = text
  length_B = np.array([len(text) for text in texts], np.int32)
  return prefill(model.computation, model.config, model.arrays, token_BL, length_B)


@functools.partial(jax.jit, static_argnums=(0, 1))
def prefill(
  computation: forward.Computation,
  config: InferenceConfig,
  arrays: Mapping[str, Any],
  token_BL: jax.Array,
  length_B: jax.Array,
) -> tuple[jax.Array, forward.Cache]:
  """Read prompts of lengths [B]: logits [B, V] of what follows them, and the cache to go on from."""
  # A chunk may run past the end of the context. The tokens that it draws there are thrown away.
  cache = forward.empty_cache(computation, config, token_BL.shape[0], config.model.context + CHUNK)
  x_BLD, _, cache = forward.forward(computation, config, arrays, token_BL, cache, length_B, jax.random.key(0))
  last_BD = jnp.take_along_axis(x_BLD, (length_B - 1)[:, None, None], axis=1)[:, 0]
  return forward.logits(arrays, last_BD), cache


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def decode_chunk(
  computation: forward.Computation,
  config: InferenceConfig,
  arrays: Mapping[str, Any],
  state: tuple[jax.Array, forward.Cache],
  keys_B: jax.Array,
  step: jax.Array,
  temperature: jax.Array,
  top_k: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, forward.Cache]]:
  """Draw CHUNK tokens of every row, int32 [B, CHUNK]; return them and the new state. It donates `state`."""
  step_S = step + jnp.arange(CHUNK, dtype=jnp.int32)
  # One random number for each token. It depends on the row's seed and the step alone.
  uniform_SB = jax.vmap(
    lambda step: jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, step), (), jnp.float32))(keys_B)
  )(step_S)
  temperature_B, top_k_B = (jnp.broadcast_to(of_all, keys_B.shape) for of_all in (temperature, top_k))

  def draw(state, inputs):
    (logits_BV, cache), (uniform_B, step) = state, inputs
    token_B = xla_kernels.draw(logits_BV, uniform_B, temperature_B, top_k_B)
    key = jax.random.fold_in(jax.random.key(1), step)
    x_B1D, _, cache = forward.forward(computation, config, arrays, token_B[:, None], cache, key=key)
    return (forward.logits(arrays, x_B1D[:, 0]), cache), token_B

  state, token_SB = jax.lax.scan(draw, state, (uniform_SB, step_S))
  return token_SB.T, state
