// Feed-forward tiles, in two ways that give the same bits.
//
// Wide tiles: tokens are grouped by tile, and each group passes through its tile a panel at a time, so that hidden
// activations stay in the first-level cache.
//
// Many narrow tiles: each token gathers its own tiles. Their hidden units are quantised together, and their outputs are
// added up in registers. Grouping would quantise a token, and read and write its output, once for each of its tiles.
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

// Tiles of at most so many units are gathered.
constexpr int64_t kMostGathered = 64;
constexpr int64_t kMostBlocks = 6;  // Of so many rows: three narrow ones and three thin ones.
// Tokens that are gathered together. One reading of a block of all tiles' down-projections serves them.
constexpr int64_t kGathered = 32;

// Working memory of some tokens that gather their tiles.
struct Gathering {
  Rows row;  // Of one token.
  int32_t *acc, *work;
  int8_t* q;      // [tokens, top_k, PaddedInt8(h)]
  Part* parts;    // [tokens, top_k]
  int64_t* used;  // [tokens], the number of parts of each token.

  static Gathering Carve(Carver& carver, const Tiles& tiles, int64_t tokens, int64_t top_k) {
    const int64_t h = PaddedRows(tiles.h);
    Gathering g;
    g.row = Rows::Carve(carver, 1, tiles.d);
    g.acc = carver.Take<int32_t>(top_k * h);
    g.work = carver.Take<int32_t>(3 * top_k);
    g.q = carver.Take<int8_t>(tokens * top_k * PaddedInt8(h));
    g.parts = carver.Take<Part>(tokens * top_k);
    g.used = carver.Take<int64_t>(tokens);
    return g;
  }
};

// The hidden units of a token in its tiles. Returns how many tiles it has: all but those with gate 0 after the first.
int64_t GatherHidden(const Path& path, const Tiles& tiles, const float* x, const int32_t* tile, const float* gate,
                     int64_t top_k, const Gathering& g, int8_t* q, Part* parts) {
  const int64_t d = tiles.d, h = tiles.h, columns = PaddedColumns(d), padded = PaddedRows(h);
  const int64_t bytes = PackedBytes(h, d);
  g.row.Quantise(path, 0, x, d);
  Block blocks[kMostBlocks];
  const int64_t count = BlockCount<uint8_t>(h);
  for (int64_t b = 0; b < count; ++b) blocks[b] = BlockAt(path, h, b);
  int64_t used = 0;
  for (int64_t k = 0; k < top_k; ++k) {
    if (k > 0 && gate[k] == 0.0f) continue;
    parts[used] = {tile[k], gate[k], nullptr, 0.0f, 0};
    const uint8_t* up = tiles.up + tile[k] * bytes;
    int32_t* acc = g.acc + used++ * padded;
    for (const Block* block = blocks; block < blocks + count; ++block) {
      block->dot(up + block->row / 4 * columns, columns, g.row.q, g.row.stride, g.row.sum, 1, acc + block->row);
    }
  }
  path.elementwise->quantise_tiles(g.acc, *g.row.step, tiles.up_scale, tiles.squared, h, used, q, g.work, parts);
  return used;
}

// Adds a token's parts to the rows of one block of its output.
void AddBlock(const Path& path, const Tiles& tiles, const Part* parts, int64_t used, const Block& block, float* y) {
  const int64_t d = tiles.d, bytes = PackedBytes(d, tiles.h), columns = PaddedColumns(tiles.h);
  const uint8_t* down = tiles.down + block.row / 4 * columns;
  const float* scale = tiles.down_scale + block.row;
  if (block.count == kWideRows && path.add_wide != nullptr) {
    path.add_wide(parts, used, down, bytes, scale, d, columns, y + block.row);
    return;
  }
  alignas(Scratch::kLine) int32_t acc[kWideRows];
  for (const Part* part = parts; part < parts + used; ++part) {
    block.dot(down + part->tile * bytes, columns, part->q, 0, &part->sum, 1, acc);
    path.elementwise->rescale_add(acc, part->step, scale + part->tile * d, part->gate, block.count, y + block.row);
  }
}

// Passes some tokens through their tiles.
void Gather(const Path& path, const Tiles& tiles, const float* x, int64_t tokens, const int32_t* tile,
            const float* gate, int64_t top_k, float* y) {
  const int64_t d = tiles.d, h = tiles.h;
  Carver sizes(nullptr);
  Gathering::Carve(sizes, tiles, tokens, top_k);
  thread_local Scratch scratch;
  Carver carver(scratch.Bytes(sizes.used()));
  const Gathering g = Gathering::Carve(carver, tiles, tokens, top_k);
  for (int64_t t = 0; t < tokens; ++t) {
    g.used[t] = GatherHidden(path, tiles, x + t * d, tile + t * top_k, gate + t * top_k, top_k, g,
                             g.q + t * top_k * PaddedInt8(h), g.parts + t * top_k);
  }
  std::fill_n(y, tokens * d, -0.0f);  // Adding any number to it gives that number.
  for (int64_t b = 0; b < BlockCount<uint8_t>(d); ++b) {
    const Block block = BlockAt(path, d, b);
    for (int64_t t = 0; t < tokens; ++t) {
      AddBlock(path, tiles, g.parts + t * top_k, g.used[t], block, y + t * d);
    }
  }
}

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
  const double nanoseconds = static_cast<double>(2 * n * d * tiles.h) / path.macs_per_ns;  // Of one tile a token.
  if (top_k > 1 && tiles.h <= kMostGathered) {
    const Pool& workers = PoolFor(pool, nanoseconds * static_cast<double>(top_k));
    // As equal as possible for all threads, and small enough for the cache.
    const int64_t tasks = std::max((n + kGathered - 1) / kGathered, std::min(n, workers.threads()));
    ParallelFor(workers, tasks, [&](int64_t task) {
      const int64_t first = n * task / tasks, last = n * (task + 1) / tasks;
      Gather(path, tiles, x + first * d, last - first, tile + first * top_k, gate + first * top_k, top_k,
             y + first * d);
    });
    return;
  }
  const Pool& workers = PoolFor(pool, nanoseconds);
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
