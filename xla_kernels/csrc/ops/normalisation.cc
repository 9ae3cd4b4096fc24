// What stands between the products: residual sums, normalisation, and the short convolution.
#include <cstring>

#include "ops/operations.h"
#include "ops/scratch.h"
#include "path.h"

namespace trix {
namespace {

constexpr double kNumberNs = 1.2;
constexpr int64_t kRowsOfTask = 64;

const float* Row(const float* rows, int64_t row, int64_t d) { return rows == nullptr ? nullptr : rows + row * d; }

}  // namespace

void Normalise(const Pool& pool, const float* x, const float* y, int64_t n, const Normalisation& how, float* sum,
               float* out) {
  const Path& path = ActivePath();
  const int64_t d = how.d, tasks = (n + kRowsOfTask - 1) / kRowsOfTask;
  ParallelFor(PoolFor(pool, static_cast<double>(n * d) * kNumberNs), tasks, [&](int64_t task) {
    for (int64_t row = n * task / tasks; row < n * (task + 1) / tasks; ++row) {
      path.elementwise->normalise(x + row * d, Row(y, row, d), d, how.scale, how.bias, how.epsilon, sum + row * d,
                                  out + row * d);
    }
  });
}

void NormaliseAndConvolve(const Pool& pool, const float* x, const float* y, int64_t batch, int64_t length,
                          const Normalisation& how, const float* taps, const float* inputs, const int32_t* valid,
                          float* sum, float* out, float* latest) {
  const Path& path = ActivePath();
  const int64_t d = how.d, before = kTaps - 1;
  const size_t bytes = sizeof(float) * static_cast<size_t>(d);
  ParallelFor(PoolFor(pool, static_cast<double>(batch * length * d) * kNumberNs), batch, [&](int64_t b) {
    thread_local Scratch scratch;
    // The normalised tokens, after those of the cache.
    float* h = reinterpret_cast<float*>(scratch.Bytes(static_cast<size_t>(length + before) * bytes));
    std::memcpy(h, inputs + b * before * d, static_cast<size_t>(before) * bytes);
    for (int64_t t = 0; t < length; ++t) {
      const int64_t row = b * length + t;
      float* own = h + (before + t) * d;
      path.elementwise->normalise(x + row * d, Row(y, row, d), d, how.scale, how.bias, how.epsilon, sum + row * d, own);
      float* mixed = out + row * d;
      for (int64_t i = 0; i < d; ++i) {
        float total = taps[i] * own[i];
        for (int64_t lag = 1; lag < kTaps; ++lag) total += taps[lag * d + i] * own[i - lag * d];
        mixed[i] = own[i] + total;
      }
    }
    std::memcpy(latest + b * before * d, h + valid[b] * d, static_cast<size_t>(before) * bytes);
  });
}

}  // namespace trix
