"""The reference model as plain PyTorch, in the original's style: the yardstick of benchmarks/train_speed.py.

The code is that of a competent PyTorch user, with fused attention. `dense` uses one matrix product for all tiles. Two
variants are sparse. In the loop of `masked` every tile computes every token and a one-hot gate masks the output, as in
the original's training. `gathered` is the better loop: a tile computes only the tokens that chose it.
"""

import torch
from torch import nn
from torch.nn import functional as F


class _Ternary(torch.autograd.Function):
  """Threshold ternary codes with a straight-through gradient, which is 0 where |w| > 1.5."""

  @staticmethod
  def forward(ctx, w):
    ctx.save_for_backward(w)
    return (w > 0.5).to(w.dtype) - (w < -0.5).to(w.dtype)

  @staticmethod
  def backward(ctx, grad):
    return grad * (ctx.saved_tensors[0].abs() <= 1.5)


class _Sign(torch.autograd.Function):
  @staticmethod
  def forward(ctx, x):
    return torch.sign(x)

  @staticmethod
  def backward(ctx, grad):
    return grad


class TiledFFN(nn.Module):
  def __init__(self, d_model, d_ff, tiles, compute):
    super().__init__()
    self.tiles, self.compute = tiles, compute
    self.up = nn.Parameter(torch.empty(tiles, d_model, d_ff // tiles).uniform_(-0.8, 0.8))
    self.down = nn.Parameter(torch.empty(tiles, d_ff // tiles, d_model).uniform_(-0.8, 0.8))
    self.up_scale = nn.Parameter(torch.full((tiles, d_ff // tiles), (0.375 * d_model) ** -0.5))
    self.down_scale = nn.Parameter(torch.full((d_model,), (0.375 * d_ff) ** -0.5))

  def forward(self, x):
    shape, x = x.shape, x.reshape(-1, x.shape[-1])
    up, down = _Ternary.apply(self.up), _Ternary.apply(self.down)
    if self.compute == 'dense':
      hidden = F.relu((x @ up.transpose(0, 1).flatten(1)) * self.up_scale.flatten())
      return ((hidden @ down.flatten(0, 1)) * self.down_scale).reshape(shape), x.new_zeros(())
    signatures = _Sign.apply(up.sum(-1))
    probability = F.softmax(x @ signatures.T / x.shape[-1] ** 0.5, dim=-1)
    best, tile = probability.max(-1)
    gate = 1 + best - best.detach()
    y = torch.zeros_like(x)
    for t in range(self.tiles):
      if self.compute == 'masked':
        hidden = F.relu((x @ up[t]) * self.up_scale[t])
        y = y + (hidden @ down[t]) * self.down_scale * (gate * (tile == t))[:, None]
      else:
        index = (tile == t).nonzero().squeeze(-1)
        hidden = F.relu((x[index] @ up[t]) * self.up_scale[t])
        y = y.index_add(0, index, (hidden @ down[t]) * self.down_scale * gate[index, None])
    load = torch.bincount(tile, minlength=self.tiles) / len(tile)
    return y.reshape(shape), self.tiles * (load * probability.mean(0)).sum()


class Block(nn.Module):
  def __init__(self, d_model, heads, d_ff, tiles, compute):
    super().__init__()
    self.heads = heads
    self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
    self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
    self.ffn = TiledFFN(d_model, d_ff, tiles, compute)

  def forward(self, x):
    B, L, D = x.shape
    q, k, v = self.qkv(self.norm_1(x)).reshape(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + self.out(attended.transpose(1, 2).reshape(B, L, D))
    y, balance = self.ffn(self.norm_2(x))
    return x + y, balance


class ReferenceLM(nn.Module):
  """Map tokens [B, L] to logits [B, L, V] and the mean balance loss; `compute` is dense, masked or gathered."""

  def __init__(self, vocabulary=65, layers=4, d_model=128, heads=4, d_ff=512, tiles=4, context=256, *, compute):
    super().__init__()
    self.embedding, self.positions = nn.Embedding(vocabulary, d_model), nn.Parameter(torch.zeros(context, d_model))
    self.blocks = nn.ModuleList(Block(d_model, heads, d_ff, tiles, compute) for _ in range(layers))
    self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocabulary)

  def forward(self, token):
    x = self.embedding(token) + self.positions[: token.shape[1]]
    balance = 0.0
    for block in self.blocks:
      x, of_block = block(x)
      balance = balance + of_block / len(self.blocks)
    return self.head(self.norm(x)), balance
