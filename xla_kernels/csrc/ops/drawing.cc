// Tokens drawn from rows of logits.
#include "ops/operations.h"
#include "ops/scratch.h"
#include "path.h"

namespace trix {
namespace {

constexpr double kLogitNs = 2.4;

}  // namespace

void Draw(const Pool& pool, const float* logits, int64_t batch, int64_t vocabulary, const Choice& choice,
          int32_t* token) {
  const Path& path = ActivePath();
  ParallelFor(PoolFor(pool, static_cast<double>(batch * vocabulary) * kLogitNs), batch, [&](int64_t row) {
    thread_local Scratch scratch;
    void* work = scratch.Bytes(static_cast<size_t>(RoundUp(vocabulary, kDrawMultiple)) * sizeof(float));
    token[row] = path.elementwise->draw(logits + row * vocabulary, vocabulary, choice.uniform[row],
                                        choice.temperature[row], choice.top_k[row], work);
  });
}

}  // namespace trix
