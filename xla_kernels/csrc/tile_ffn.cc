// Feed-forward tiles: assignments are grouped by tile, and each group passes through its tile a panel at a time, so that
// hidden activations stay in the first-level cache.
#include <vector>

#include "operations.h"
#include "panels.h"

namespace trix {
namespace {

// Assignments that pass through a tile together: its weights are read once from wherever they are for so many.
constexpr int64_t kGroup = 48;
constexpr int64_t kParallelMacs = int64_t{1} << 23;

struct Group {
  int32_t tile;
  int64_t first, count;  // In the order of `Grouped::order`.
};

struct Grouped {
  std::vector<int64_t> order;  // Assignments (token * top_k + k), sorted by tile.
  std::vector<Group> groups;
};

void GroupByTile(const int32_t* tile, int64_t count, int64_t tiles, Grouped* grouped) {
  if (count == 1) {  // One token, as in generating text, for which all this is a tenth of the work.
    grouped->order.assign(1, 0);
    grouped->groups.assign(1, {tile[0], 0, 1});
    return;
  }
  thread_local std::vector<int64_t> next;
  next.assign(static_cast<size_t>(tiles) + 1, 0);
  for (int64_t a = 0; a < count; ++a) ++next[static_cast<size_t>(tile[a]) + 1];
  grouped->groups.clear();
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = next[static_cast<size_t>(t)], end = begin + next[static_cast<size_t>(t) + 1];
    for (int64_t first = begin; first < end; first += kGroup) {
      grouped->groups.push_back({static_cast<int32_t>(t), first, std::min(kGroup, end - first)});
    }
    next[static_cast<size_t>(t) + 1] = end;
  }
  grouped->order.resize(static_cast<size_t>(count));
  for (int64_t a = 0; a < count; ++a) {
    grouped->order[static_cast<size_t>(next[static_cast<size_t>(tile[a])]++)] = a;
  }
}

// Some rows through one tile; output of row i, times gate[i], to out[i].
void TileForward(const Path& path, const Tiles& tiles, int32_t tile, const Rows& rows, int64_t count,
                 const float* gate, float* const* out, float* hidden, const Rows& hidden_rows) {
  const int64_t d = tiles.d, h = tiles.h;
  const float* up_scale = tiles.up_scale + tile * h;
  const float* down_scale = tiles.down_scale + tile * d;
  DotBlocks(path, tiles.up + tile * PackedBytes(h, d), h, d, 0, BlockCount(h), rows, count,
            [&](int64_t i, int64_t row, int64_t width, const int32_t* acc) {
              path.elementwise->rescale_relu(acc, rows.step[i], up_scale + row, tiles.squared, width,
                                             hidden + i * h + row);
            });
  for (int64_t i = 0; i < count; ++i) hidden_rows.Quantise(path, i, hidden + i * h, h);
  DotBlocks(path, tiles.down + tile * PackedBytes(d, h), d, h, 0, BlockCount(d), hidden_rows, count,
            [&](int64_t i, int64_t row, int64_t width, const int32_t* acc) {
              path.elementwise->rescale(acc, hidden_rows.step[i], down_scale + row, gate[i], width, out[i] + row);
            });
}

// Working memory of one group.
struct Workspace {
  Rows rows, hidden_rows;
  float *hidden, *gate;
  float** out;

  static Workspace Carve(Carver& carver, const Tiles& tiles, int64_t count) {
    Workspace w;
    w.rows = Rows::Carve(carver, count, tiles.d);
    w.hidden_rows = Rows::Carve(carver, count, tiles.h);
    w.hidden = carver.Take<float>(count * tiles.h);
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
  const int64_t d = tiles.d, assignments = n * top_k;
  thread_local Grouped grouped;
  GroupByTile(tile, assignments, tiles.tiles, &grouped);
  // With one tile a token its output is the result; with several they are added up at the end, in order.
  thread_local Scratch partial;
  float* outputs = top_k == 1 ? y : reinterpret_cast<float*>(
                                        partial.Bytes(static_cast<size_t>(assignments * d) * sizeof(float)));
  static const Pool serial;
  const Pool& workers = 2 * assignments * d * tiles.h < kParallelMacs ? serial : pool;
  const Grouped& of_caller = grouped;  // The caller's, not that of the thread that runs the task.
  ParallelFor(workers, static_cast<int64_t>(of_caller.groups.size()), [&](int64_t task) {
    const Group group = of_caller.groups[static_cast<size_t>(task)];
    const int64_t* order = of_caller.order.data() + group.first;
    Carver sizes(nullptr);
    Workspace::Carve(sizes, tiles, group.count);
    thread_local Scratch scratch;
    Carver carver(scratch.Bytes(sizes.used()));
    const Workspace w = Workspace::Carve(carver, tiles, group.count);
    for (int64_t i = 0; i < group.count; ++i) {
      w.rows.Quantise(path, i, x + order[i] / top_k * d, d);
      w.gate[i] = gate[order[i]];
      w.out[i] = outputs + order[i] * d;
    }
    TileForward(path, tiles, group.tile, w.rows, group.count, w.gate, w.out, w.hidden, w.hidden_rows);
  });
  if (top_k == 1) return;
  for (int64_t token = 0; token < n; ++token) {
    for (int64_t i = 0; i < d; ++i) {
      float total = outputs[token * top_k * d + i];
      for (int64_t k = 1; k < top_k; ++k) total += outputs[(token * top_k + k) * d + i];
      y[token * d + i] = total;
    }
  }
}

}  // namespace trix
