"""The reference model in plain PyTorch at inference: the yardstick of benchmarks/inference_speed.py.

`cached` is the code of a competent user: weights in float32 with their scales multiplied in, one matrix product for all
tiles, and fused attention over a cache. `original` follows the original: it computes the whole context again for every
token. In its loop over tiles every tile computes every token, and a mask keeps one tile.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
  up: torch.Tensor
  down: torch.Tensor
  signatures: torch.Tensor

  def __init__(self, d_model, heads, d_ff, tiles, style):
    super().__init__()
    self.heads, self.tiles, self.style = heads, tiles, style
    self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
    self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
    codes = torch.randint(-1, 2, (2, d_ff, d_model)).float() * d_model**-0.5
    self.register_buffer('up', codes[0])
    self.register_buffer('down', codes[1].T.contiguous())
    self.register_buffer('signatures', torch.sign(codes[0].reshape(tiles, -1, d_model).sum(1)))

  def attend(self, x, cache, position):
    B, L, D = x.shape
    q, k, v = self.qkv(x).reshape(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    if cache is None:
      out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
      cache[0][:, :, position : position + L], cache[1][:, :, position : position + L] = k, v
      keys, values = (part[:, :, : position + L] for part in cache)
      out = F.scaled_dot_product_attention(q, keys, values, is_causal=L > 1)
    return self.out(out.transpose(1, 2).reshape(B, L, D))

  def ffn(self, x):
    if self.style == 'cached':
      return F.relu(x @ self.up.T) @ self.down.T
    tile = (x @ self.signatures.T).argmax(-1)
    y = torch.zeros_like(x)
    for t, (up, down) in enumerate(zip(self.up.chunk(self.tiles), self.down.chunk(self.tiles, dim=1), strict=True)):
      y = y + (F.relu(x @ up.T) @ down.T) * (tile == t)[..., None]
    return y

  def forward(self, x, cache, position):
    x = x + self.attend(self.norm_1(x), cache, position)
    return x + self.ffn(self.norm_2(x))


class InferenceLM(nn.Module):
  """Map tokens [B, L] from `position` on to the logits of the last token, [B, V]."""

  def __init__(self, vocabulary, layers, d_model, heads, d_ff, tiles, context, style):
    super().__init__()
    self.embedding, self.positions = nn.Embedding(vocabulary, d_model), nn.Embedding(context, d_model)
    self.blocks = nn.ModuleList(Block(d_model, heads, d_ff, tiles, style) for _ in range(layers))
    self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocabulary)
    self.style, self.context, self.heads = style, context, heads

  def empty_cache(self, batch):
    """Make a cache of keys and values for every layer; nothing for the `original`."""
    if self.style == 'original':
      return [None for _ in self.blocks]
    shape = batch, self.heads, self.context, self.norm.normalized_shape[0] // self.heads
    return [[torch.zeros(shape) for _ in range(2)] for _ in self.blocks]

  def forward(self, token, cache, position):
    x = self.embedding(token) + self.positions(torch.arange(position, position + token.shape[1]))
    for block, of_block in zip(self.blocks, cache, strict=True):
      x = block(x, of_block, position)
    return self.head(self.norm(x[:, -1]))


@torch.inference_mode()
def generate(model, token, length):
  """Write greedy text after prompts [B, L], in the model's style."""
  cache, position = model.empty_cache(token.shape[0]), 0
  new = token
  for _ in range(length):
    logits = model(new, cache, position)
    new = logits.argmax(-1, keepdim=True)
    if model.style == 'cached':
      position += token.shape[1] if position == 0 else 1
    else:
      token = torch.cat([token, new], dim=1)[:, -model.context :]
      new = token
  return new
