// Packed matrix products over many rows: chunks of tokens, split among threads by blocks of output rows.
#include "ops/operations.h"
#include "ops/panels.h"

namespace trix {
namespace {

// Tokens in a chunk, which is quantised and then multiplied. A chunk stays in the second-level cache.
constexpr int64_t kChunkBytes = 1 << 18;
constexpr double kQuantiseNs = 0.4;  // For each activation.

// The weights of a product: packed ternary codes (uint8_t) or int8.
template <typename Code>
struct Weights {
  const Code* packed;
  int64_t m, k;
};

// Fills rows chunk by chunk and multiplies: prepare(path, rows, token, its place in the chunk), then
// sink(path, rows, token, its place in the chunk, first output row, how many, accumulators).
template <typename Code, typename Prepare, typename Sink>
void Multiply(const Pool& pool, int64_t n, const Weights<Code>& weights, const Prepare& prepare, const Sink& sink) {
  const int64_t k = weights.k, m = weights.m;
  if (n == 0 || m == 0) return;
  const Path& path = ActivePath();
  const int64_t panels = std::max<int64_t>(1, kChunkBytes / Rows::Stride(k) / path.panel);
  const int64_t chunk = std::min(n, panels * path.panel);
  Carver sizes(nullptr);
  Rows::Carve(sizes, chunk, k);
  thread_local Scratch scratch;
  Carver carver(scratch.Bytes(sizes.used()));
  const Rows rows = Rows::Carve(carver, chunk, k);
  const auto nanoseconds = [&](int64_t tokens) { return static_cast<double>(tokens * m * k) / path.macs_per_ns; };
  const Pool& workers = PoolFor(pool, nanoseconds(n));
  const int64_t blocks = BlockCount<Code>(m);
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t tokens = std::min(chunk, n - first);
    const int64_t quantise_tasks = static_cast<double>(tokens * k) * kQuantiseNs < kTaskNs ? 1 : workers.threads() * 2;
    ParallelFor(workers, quantise_tasks, [&](int64_t task) {
      for (int64_t t = tokens * task / quantise_tasks; t < tokens * (task + 1) / quantise_tasks; ++t) {
        prepare(path, rows, first + t, t);
      }
    });
    const int64_t tasks = std::clamp<int64_t>(static_cast<int64_t>(nanoseconds(tokens) / kTaskNs), 1, blocks);
    ParallelFor(workers, tasks, [&](int64_t task) {
      DotBlocks(path, weights.packed, m, k, blocks * task / tasks, blocks * (task + 1) / tasks, rows, tokens,
                [&](int64_t t, int64_t row, int64_t count, const int32_t* acc) {
                  sink(path, rows, first + t, t, row, count, acc);
                });
    });
  }
}

// Activations quantised on the way in, accumulators rescaled on the way out.
template <typename Code>
void QuantisedMatmul(const Pool& pool, const float* x, int64_t n, const Weights<Code>& weights, const float* scales,
                     const float* bias, float* y) {
  Multiply(
      pool, n, weights,
      [&](const Path& path, const Rows& rows, int64_t token, int64_t t) {
        rows.Quantise(path, t, x + token * weights.k, weights.k);
      },
      [&](const Path& path, const Rows& rows, int64_t token, int64_t t, int64_t row, int64_t count,
          const int32_t* acc) {
        float* own = y + token * weights.m + row;
        path.elementwise->rescale(acc, rows.step[t], scales + row, 1.0f, count, own);
        for (int64_t i = 0; bias != nullptr && i < count; ++i) own[i] += bias[row + i];
      });
}

}  // namespace

void Accumulate(const Pool& pool, const int8_t* q, int64_t n, int64_t k, const uint8_t* packed, int64_t m,
                int32_t* acc) {
  Multiply(
      pool, n, Weights<uint8_t>{packed, m, k},
      [&](const Path&, const Rows& rows, int64_t token, int64_t t) {
        int8_t* row = rows.q + t * rows.stride;
        std::memcpy(row, q + token * k, static_cast<size_t>(k));
        std::memset(row + k, 0, static_cast<size_t>(PaddedInt8(k) - k));
        int32_t sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += row[i];
        rows.sum[t] = sum;
      },
      [&](const Path&, const Rows&, int64_t token, int64_t, int64_t row, int64_t count, const int32_t* from) {
        std::memcpy(acc + token * m + row, from, static_cast<size_t>(count) * sizeof(int32_t));
      });
}

void TernaryMatmul(const Pool& pool, const float* x, int64_t n, int64_t k, const uint8_t* packed, int64_t m,
                   const float* scales, const float* bias, float* y) {
  QuantisedMatmul(pool, x, n, Weights<uint8_t>{packed, m, k}, scales, bias, y);
}

void Int8Matmul(const Pool& pool, const float* x, int64_t n, int64_t k, const int8_t* packed, int64_t m,
                const float* scales, const float* bias, float* y) {
  QuantisedMatmul(pool, x, n, Weights<int8_t>{packed, m, k}, scales, bias, y);
}

}  // namespace trix
