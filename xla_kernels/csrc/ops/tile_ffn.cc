// Feed-forward tiles: tokens are grouped by tile, and each group passes through its tile a panel at a time, so that
// hidden activations stay in the first-level cache.
#include <vector>

#include "ops/operations.h"
#include "ops/panels.h"

namespace trix {
namespace {

// Tokens that pass through a tile together. One reading of the tile's weights serves all of them.
constexpr int64_t kGroup = 48;

struct Group {
  int32_t tile;
  int64_t first, count;  // In the order of `Grouped::order`.
};

struct Grouped {
  std::vector<int64_t> order;  // Tokens, sorted by tile.
  std::vector<Group> groups;
};

// Groups the tokens for which needed(t) is true; tile[t * stride] is the tile of token t.
template <typename Needed>
void GroupByTile(const int32_t* tile, int64_t count, int64_t stride, int64_t tiles, const Needed& needed,
                 Grouped* grouped) {
  if (count == 1) {  // In generating text, where this grouping would be a tenth of the work.
    grouped->order.assign(1, 0);
    grouped->groups.assign(needed(0) ? 1 : 0, {tile[0], 0, 1});
    return;
  }
  thread_local std::vector<int64_t> next;
  next.assign(static_cast<size_t>(tiles) + 1, 0);
  for (int64_t t = 0; t < count; ++t) {
    if (needed(t)) ++next[static_cast<size_t>(tile[t * stride]) + 1];
  }
  grouped->groups.clear();
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = next[static_cast<size_t>(t)], end = begin + next[static_cast<size_t>(t) + 1];
    for (int64_t first = begin; first < end; first += kGroup) {
      grouped->groups.push_back({static_cast<int32_t>(t), first, std::min(kGroup, end - first)});
    }
    next[static_cast<size_t>(t) + 1] = end;
  }
  grouped->order.resize(static_cast<size_t>(count));
  for (int64_t t = 0; t < count; ++t) {
    if (needed(t)) grouped->order[static_cast<size_t>(next[static_cast<size_t>(tile[t * stride])]++)] = t;
  }
}

// Passes some rows through one tile, and writes the output of row i, times gate[i], to out[i].
void TileForward(const Path& path, const Tiles& tiles, int32_t tile, const Rows& rows, int64_t count, const float* gate,
                 float* const* out, float* hidden, const Rows& hidden_rows) {
  const int64_t d = tiles.d, h = tiles.h;
  const float* up_scale = tiles.up_scale + tile * h;
  const float* down_scale = tiles.down_scale + tile * d;
  DotBlocks(path, tiles.up + tile * PackedBytes(h, d), h, d, 0, BlockCount<uint8_t>(h), rows, count,
            [&](int64_t i, int64_t row, int64_t width, const int32_t* acc) {
              path.elementwise->rescale_relu(acc, rows.step[i], up_scale + row, tiles.squared, width,
                                             hidden + i * h + row);
            });
  for (int64_t i = 0; i < count; ++i) hidden_rows.Quantise(path, i, hidden + i * h, h);
  DotBlocks(path, tiles.down + tile * PackedBytes(d, h), d, h, 0, BlockCount<uint8_t>(d), hidden_rows, count,
            [&](int64_t i, int64_t row, int64_t width, const int32_t* acc) {
              path.elementwise->rescale(acc, hidden_rows.step[i], down_scale + row, gate[i], width, out[i] + row);
            });
}

// Working memory of one group.
struct Workspace {
  Rows rows, hidden_rows;
  float *hidden, *added, *gate;
  float** out;

  static Workspace Carve(Carver& carver, const Tiles& tiles, int64_t count) {
    Workspace w;
    w.rows = Rows::Carve(carver, count, tiles.d);
    w.hidden_rows = Rows::Carve(carver, count, tiles.h);
    w.hidden = carver.Take<float>(count * tiles.h);
    w.added = carver.Take<float>(count * tiles.d);
    w.gate = carver.Take<float>(count);
    w.out = carver.Take<float*>(count);
    return w;
  }
};

}  // namespace

int64_t FirstBadTile(const int32_t* tile, int64_t count, int64_t tiles) {
  for (int64_t a = 0; a < count; ++a) {
    if (tile[a] < 0 || tile[a] >= tiles) return a;
  }
  return -1;
}

void RoutedTileFfn(const Pool& pool, const float* x, int64_t n, const Tiles& tiles, const int32_t* tile,
                   const float* gate, int64_t top_k, float* y) {
  const Path& path = ActivePath();
  const int64_t d = tiles.d;
  const Pool& workers = PoolFor(pool, 2 * n * d * tiles.h);
  // There is a pass for each of a token's tiles. Within a pass every token is in one group only, so groups run side by
  // side, and outputs are added in order.
  for (int64_t k = 0; k < top_k; ++k) {
    thread_local Grouped of_thread;
    Grouped& grouped = of_thread;  // The caller's, also in tasks that other threads run.
    // After the first output, a tile with gate 0 adds nothing.
    const auto needed = [&](int64_t t) { return k == 0 || gate[t * top_k + k] != 0.0f; };
    GroupByTile(tile + k, n, top_k, tiles.tiles, needed, &grouped);
    ParallelFor(workers, static_cast<int64_t>(grouped.groups.size()), [&](int64_t task) {
      const Group group = grouped.groups[static_cast<size_t>(task)];
      const int64_t* tokens = grouped.order.data() + group.first;
      Carver sizes(nullptr);
      Workspace::Carve(sizes, tiles, group.count);
      thread_local Scratch scratch;
      Carver carver(scratch.Bytes(sizes.used()));
      const Workspace w = Workspace::Carve(carver, tiles, group.count);
      for (int64_t i = 0; i < group.count; ++i) {
        w.rows.Quantise(path, i, x + tokens[i] * d, d);
        w.gate[i] = gate[tokens[i] * top_k + k];
        w.out[i] = k == 0 ? y + tokens[i] * d : w.added + i * d;
      }
      TileForward(path, tiles, group.tile, w.rows, group.count, w.gate, w.out, w.hidden, w.hidden_rows);
      for (int64_t i = 0; k > 0 && i < group.count; ++i) {
        for (int64_t j = 0; j < d; ++j) y[tokens[i] * d + j] += w.added[i * d + j];
      }
    });
  }
}

}  // namespace trix
