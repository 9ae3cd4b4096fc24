// Routing by signatures: exact integer scores, the best tiles of every token.
#include <cmath>
#include <limits>

#include "lanes.h"
#include "operations.h"
#include "panels.h"

namespace trix {
namespace {

// Tiles in order of selection, best first; a later tile must be better, not equal, to come before an earlier one.
void SelectBest(const int32_t* dot, const Signatures& signatures, int64_t top_k, float* best, int32_t* tile,
                float* score) {
  int64_t chosen = 0;
  for (int64_t t = 0; t < signatures.tiles; ++t) {
    const float product = static_cast<float>(dot[t]);
    float selection = (product + signatures.offset[t]) * signatures.scale[t];
    if (std::isnan(selection)) selection = -std::numeric_limits<float>::infinity();
    if (chosen == top_k && !(selection > best[top_k - 1])) continue;
    int64_t place = chosen < top_k ? chosen++ : top_k - 1;
    for (; place > 0 && selection > best[place - 1]; --place) {
      best[place] = best[place - 1];
      tile[place] = tile[place - 1];
      score[place] = score[place - 1];
    }
    best[place] = selection;
    tile[place] = static_cast<int32_t>(t);
    score[place] = product * signatures.scale[t];
  }
}

// The chosen tiles' part of softmax((dot * scale) * step * temperature) over all tiles. `work` holds PaddedRows(tiles)
// floats.
void Probabilities(const int32_t* dot, const Signatures& signatures, float step, float temperature, int64_t top_k,
                   const int32_t* tile, float* work, float* probability) {
  const int64_t padded = PaddedRows(signatures.tiles);
  static_assert(kNarrowRows % kLanes == 0);
  float highest = -std::numeric_limits<float>::infinity();
  for (int64_t t = 0; t < signatures.tiles; ++t) {
    work[t] = ((static_cast<float>(dot[t]) * signatures.scale[t]) * step) * temperature;
    highest = work[t] > highest ? work[t] : highest;
  }
  for (int64_t t = signatures.tiles; t < padded; ++t) work[t] = -std::numeric_limits<float>::infinity();
  Lanes sums = {};
  for (int64_t t = 0; t < padded; t += kLanes) {
    At(work + t) -= highest;
    ExpOfNegative(At(work + t));
    sums += At(work + t);
  }
  const float sum = SumOf(sums);
  for (int64_t i = 0; i < top_k; ++i) probability[i] = work[tile[i]] / sum;
}

}  // namespace

void Route(const Pool& pool, const float* x, int64_t n, const Signatures& signatures, int64_t top_k,
           float temperature, int32_t* tile, float* score, float* probability) {
  const Path& path = ActivePath();
  const int64_t d = signatures.d, tiles = signatures.tiles;
  const int64_t tasks = std::clamp<int64_t>(n * d * tiles / kTaskMacs, 1, std::max<int64_t>(n, 1));
  ParallelFor(pool, tasks, [&](int64_t task) {
    const auto carve = [&](Carver carver, Rows* rows, int32_t** dot, float** best, float** work) {
      *rows = Rows::Carve(carver, path.panel, d);
      *dot = carver.Take<int32_t>(path.panel * tiles);
      *best = carver.Take<float>(top_k);
      *work = carver.Take<float>(PaddedRows(tiles));
      return carver.used();
    };
    Rows rows;
    int32_t* dot;
    float *best, *work;
    thread_local Scratch scratch;
    const size_t bytes = carve(Carver(nullptr), &rows, &dot, &best, &work);
    carve(Carver(scratch.Bytes(bytes)), &rows, &dot, &best, &work);
    const int64_t last = n * (task + 1) / tasks;
    for (int64_t first = n * task / tasks; first < last;) {
      const int panel = PanelSize(last - first, path.panel);
      for (int t = 0; t < panel; ++t) rows.Quantise(path, t, x + (first + t) * d, d);
      const auto keep = [&](int64_t t, int64_t row, int64_t count, const int32_t* acc) {
        std::memcpy(dot + t * tiles + row, acc, static_cast<size_t>(count) * sizeof(int32_t));
      };
      if (signatures.packed != nullptr) {
        DotBlocks(path, signatures.packed, tiles, d, 0, BlockCount<uint8_t>(tiles), rows, panel, keep);
      } else {
        DotBlocks(path, signatures.tally, tiles, d, 0, BlockCount<int8_t>(tiles), rows, panel, keep);
      }
      for (int t = 0; t < panel; ++t) {
        int32_t* chosen = tile + (first + t) * top_k;
        float* scores = score + (first + t) * top_k;
        SelectBest(dot + t * tiles, signatures, top_k, best, chosen, scores);
        if (std::isnan(rows.step[t])) {
          for (int64_t i = 0; i < top_k; ++i) {
            chosen[i] = static_cast<int32_t>(i);
            scores[i] = std::nanf("");
          }
        }
        if (probability != nullptr) {
          Probabilities(dot + t * tiles, signatures, rows.step[t], temperature, top_k, chosen, work,
                        probability + (first + t) * top_k);
        }
      }
      first += panel;
    }
  });
}

}  // namespace trix
