// Routing by signatures: exact integer scores, and the best tiles of every token.
#include <algorithm>
#include <cmath>
#include <limits>

#include "isa/lanes.h"
#include "ops/operations.h"
#include "ops/panels.h"

namespace trix {
namespace {

// The candidates of a row: products with keys, and the factors and biases of the keys. All have `count` entries.
struct Candidates {
  const int32_t* dot;
  const float *scale, *offset;
  int64_t count;
};

// So few places are found fastest one by one.
constexpr int64_t kFew = 8;

// The places of the few greatest values, greatest first. Among equals the earlier place comes first.
void FindFew(const float* values, int64_t count, int64_t top_k, int32_t* place) {
  float best[kFew];
  int64_t chosen = 0;
  for (int64_t c = 0; c < count; ++c) {
    if (chosen == top_k && !(values[c] > best[top_k - 1])) continue;
    int64_t at = chosen < top_k ? chosen++ : top_k - 1;
    for (; at > 0 && values[c] > best[at - 1]; --at) {
      best[at] = best[at - 1];
      place[at] = place[at - 1];
    }
    best[at] = values[c];
    place[at] = static_cast<int32_t>(c);
  }
}

// Finds the best places and their scores. `selection` holds `count` numbers, and `work` twice as many.
void SelectBest(const Path& path, const Candidates& candidates, int64_t top_k, float* selection, int32_t* work,
                int32_t* place, float* score) {
  const int32_t* dot = candidates.dot;
  for (int64_t c = 0; c < candidates.count; ++c) {
    const float value = (static_cast<float>(dot[c]) + candidates.offset[c]) * candidates.scale[c];
    selection[c] = std::isnan(value) ? -std::numeric_limits<float>::infinity() : value;
  }
  if (top_k <= kFew) {
    FindFew(selection, candidates.count, top_k, place);
  } else {
    path.elementwise->find_best(selection, candidates.count, top_k, work, place);
  }
  for (int64_t i = 0; i < top_k; ++i) score[i] = static_cast<float>(dot[place[i]]) * candidates.scale[place[i]];
}

// Chooses the first places, for a row that is not finite.
void SelectFirst(int64_t top_k, int32_t* place, float* score) {
  for (int64_t i = 0; i < top_k; ++i) {
    place[i] = static_cast<int32_t>(i);
    score[i] = std::nanf("");
  }
}

// The chosen places' part of softmax((dot * scale) * step * temperature) over all candidates. `work` holds
// RoundUp(count, kLanes) floats.
void Probabilities(const Candidates& candidates, float step, float temperature, int64_t top_k, const int32_t* place,
                   float* work, float* probability) {
  const int64_t count = candidates.count, padded = RoundUp(count, kLanes);
  float highest = -std::numeric_limits<float>::infinity();
  for (int64_t c = 0; c < count; ++c) {
    work[c] = ((static_cast<float>(candidates.dot[c]) * candidates.scale[c]) * step) * temperature;
    highest = work[c] > highest ? work[c] : highest;
  }
  for (int64_t c = count; c < padded; ++c) work[c] = -std::numeric_limits<float>::infinity();
  const float sum = Exponentials(highest, padded, work);
  for (int64_t i = 0; i < top_k; ++i) probability[i] = work[place[i]] / sum;
}

void Gates(const Candidates& candidates, float step, const Gating& gating, int64_t top_k, const int32_t* place,
           const float* score, float* work, float* gate) {
  if (gating.probability) {
    Probabilities(candidates, step, gating.temperature, top_k, place, work, gate);
  } else {
    std::fill_n(gate, top_k, 1.0f);
  }
  for (int64_t i = 1; i < top_k; ++i) {
    if ((score[0] - score[i]) * step > gating.margin) gate[i] = 0.0f;
  }
}

// Products of rows with the keys of one matrix, for row t at dot + t * matrix.tiles. `matrix` numbers the matrices.
void Products(const Path& path, const Signatures& keys, int64_t matrix, const Rows& rows, int64_t count, int32_t* dot) {
  const int64_t tiles = keys.tiles, d = keys.d;
  const auto keep = [&](int64_t t, int64_t row, int64_t width, const int32_t* acc) {
    std::memcpy(dot + t * tiles + row, acc, static_cast<size_t>(width) * sizeof(int32_t));
  };
  if (keys.packed != nullptr) {
    DotBlocks(path, keys.packed + matrix * PackedBytes(tiles, d), tiles, d, 0, BlockCount<uint8_t>(tiles), rows, count,
              keep);
  } else {
    DotBlocks(path, keys.tally + matrix * PackedInt8Bytes(tiles, d), tiles, d, 0, BlockCount<int8_t>(tiles), rows,
              count, keep);
  }
}

// Working memory of a panel of rows.
struct Workspace {
  Rows rows;
  int32_t *dot, *cluster_dot, *cluster;
  float *scale, *offset;  // Of the candidates of one row, with an index
  float *selection, *score, *work;
  int32_t* order;

  static Workspace Carve(Carver& carver, int panel, const Signatures& signatures, const Index* index, int64_t top_k) {
    const int64_t clusters = index == nullptr ? 0 : index->clusters.tiles,
                  probes = index == nullptr ? 0 : index->probes;
    const int64_t candidates = std::max<int64_t>(probes, 1) * signatures.tiles;
    Workspace w;
    w.rows = Rows::Carve(carver, panel, signatures.d);
    w.dot = carver.Take<int32_t>(index == nullptr ? panel * signatures.tiles : candidates);
    w.cluster_dot = carver.Take<int32_t>(panel * clusters);
    w.cluster = carver.Take<int32_t>(probes);
    w.scale = carver.Take<float>(probes * signatures.tiles);
    w.offset = carver.Take<float>(probes * signatures.tiles);
    w.selection = carver.Take<float>(std::max(candidates, clusters));
    w.order = carver.Take<int32_t>(2 * std::max(candidates, clusters));
    w.score = carver.Take<float>(std::max(top_k, probes));
    w.work = carver.Take<float>(RoundUp(candidates, kLanes));
    return w;
  }
};

// The candidates of row t of a panel: the tiles of the clusters that match it best, in the order of clusters.
Candidates LookUp(const Path& path, const Signatures& signatures, const Index& index, const Workspace& w, int t) {
  const Signatures& clusters = index.clusters;
  const int64_t members = signatures.tiles;
  if (std::isnan(w.rows.step[t])) {
    SelectFirst(index.probes, w.cluster, w.score);
  } else {
    SelectBest(path, {w.cluster_dot + t * clusters.tiles, clusters.scale, clusters.offset, clusters.tiles},
               index.probes, w.selection, w.order, w.cluster, w.score);
    std::sort(w.cluster, w.cluster + index.probes);
  }
  for (int64_t p = 0; p < index.probes; ++p) {
    Products(path, signatures, w.cluster[p], w.rows.From(t), 1, w.dot + p * members);
    const size_t bytes = static_cast<size_t>(members) * sizeof(float);
    std::memcpy(w.scale + p * members, signatures.scale + w.cluster[p] * members, bytes);
    std::memcpy(w.offset + p * members, signatures.offset + w.cluster[p] * members, bytes);
  }
  return {w.dot, w.scale, w.offset, index.probes * members};
}

}  // namespace

void Route(const Pool& pool, const float* x, int64_t n, const Signatures& signatures, const Index* index, int64_t top_k,
           const Gating& gating, int32_t* tile, float* score, float* gate) {
  const Path& path = ActivePath();
  const int64_t d = signatures.d, members = signatures.tiles;
  const int64_t keys = index == nullptr ? members : index->clusters.tiles + index->probes * members;
  const double nanoseconds = static_cast<double>(n * d * keys) / path.macs_per_ns;
  const int64_t tasks = std::clamp<int64_t>(static_cast<int64_t>(nanoseconds / kTaskNs), 1, std::max<int64_t>(n, 1));
  ParallelFor(pool, tasks, [&](int64_t task) {
    Carver sizes(nullptr);
    Workspace::Carve(sizes, path.panel, signatures, index, top_k);
    thread_local Scratch scratch;
    Carver carver(scratch.Bytes(sizes.used()));
    const Workspace w = Workspace::Carve(carver, path.panel, signatures, index, top_k);
    const int64_t last = n * (task + 1) / tasks;
    for (int64_t first = n * task / tasks; first < last;) {
      const int panel = PanelSize(last - first, path.panel);
      for (int t = 0; t < panel; ++t) w.rows.Quantise(path, t, x + (first + t) * d, d);
      if (index == nullptr) {
        Products(path, signatures, 0, w.rows, panel, w.dot);
      } else {
        Products(path, index->clusters, 0, w.rows, panel, w.cluster_dot);
      }
      for (int t = 0; t < panel; ++t) {
        const Candidates candidates =
            index == nullptr ? Candidates{w.dot + t * members, signatures.scale, signatures.offset, members}
                             : LookUp(path, signatures, *index, w, t);
        const float step = w.rows.step[t];
        int32_t* place = tile + (first + t) * top_k;
        float* scores = score == nullptr ? w.score : score + (first + t) * top_k;
        if (std::isnan(step)) {
          SelectFirst(top_k, place, scores);
        } else {
          SelectBest(path, candidates, top_k, w.selection, w.order, place, scores);
        }
        if (gate != nullptr) {
          Gates(candidates, step, gating, top_k, place, scores, w.work, gate + (first + t) * top_k);
        }
        for (int64_t i = 0; index != nullptr && i < top_k; ++i) {
          place[i] = index->member[w.cluster[place[i] / members] * members + place[i] % members];
        }
      }
      first += panel;
    }
  });
}

}  // namespace trix
