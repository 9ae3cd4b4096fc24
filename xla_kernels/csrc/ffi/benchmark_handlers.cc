// Time the operations inside the custom call: XLA's threads run them, and the time of the call does not count. Measure
// also the limits of the machine for comparison.
#include <chrono>

#include "ffi/ffi_buffers.h"
#include "ffi/ffi_handlers.h"
#include "ops/operations.h"
#include "path.h"

namespace trix {
namespace {

// Fills `microseconds` with times of run(first), a batch of calls numbered from `first`, divided by their number.
template <typename Run>
void Time(ffi::Result<F32> microseconds, int64_t batch, const Run& run) {
  const auto samples = static_cast<int64_t>(microseconds->element_count());
  for (int64_t i = 0; i < samples; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run(i * batch);
    const std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - start;
    microseconds->typed_data()[i] = static_cast<float>(elapsed.count() / static_cast<double>(batch));
  }
}

// Takes one copy of the weights after the other.
ffi::Error TimedMatmulHandler(ffi::ThreadPool threads, F32 x, U8 packed, F32 scales, int64_t batch, ffi::Result<F32> y,
                              ffi::Result<F32> microseconds) {
  const int64_t n = FromLast(x, 1), k = FromLast(x, 0), m = FromLast(scales, 0), copies = FromLast(packed, 1);
  if (FromLast(packed, 0) != PackedBytes(m, k)) return Invalid("timed_matmul: sizes differ");
  const XlaPool pool(threads);
  Time(microseconds, batch, [&](int64_t first) {
    for (int64_t i = first; i < first + batch; ++i) {
      TernaryMatmul(pool, x.typed_data(), n, k, packed.typed_data() + i % copies * PackedBytes(m, k), m,
                    scales.typed_data(), nullptr, y->typed_data());
    }
  });
  return ffi::Error::Success();
}

ffi::Error TimedTileFfnHandler(ffi::ThreadPool threads, F32 x, U8 up, F32 up_scale, U8 down, F32 down_scale, S32 tile,
                               F32 gate, int64_t batch, ffi::Result<F32> y, ffi::Result<F32> microseconds) {
  const int64_t n = FromLast(x, 1), d = FromLast(x, 0), count = FromLast(up_scale, 1), h = FromLast(up_scale, 0);
  if (FromLast(up, 0) != PackedBytes(h, d) || FromLast(down, 0) != PackedBytes(d, h) ||
      FirstBadTile(tile.typed_data(), static_cast<int64_t>(tile.element_count()), count) >= 0) {
    return Invalid("timed_tile_ffn: sizes differ");
  }
  const Tiles tiles{count, d, h, up.typed_data(), up_scale.typed_data(), down.typed_data(), down_scale.typed_data(),
                    true};
  const XlaPool pool(threads);
  Time(microseconds, batch, [&](int64_t) {
    for (int64_t i = 0; i < batch; ++i) {
      RoutedTileFfn(pool, x.typed_data(), n, tiles, tile.typed_data(), gate.typed_data(), FromLast(tile, 0),
                    y->typed_data());
    }
  });
  return ffi::Error::Success();
}

// Every thread runs `rounds` rounds of the active path's dot products. The second result is the number of
// multiply-accumulates in a round.
ffi::Error TimedPeakHandler(ffi::ThreadPool threads, int64_t rounds, ffi::Result<F32> macs,
                            ffi::Result<F32> microseconds) {
  const XlaPool pool(threads);
  const Path& path = ActivePath();
  macs->typed_data()[0] = static_cast<float>(path.peak(1) * pool.threads());
  Time(microseconds, 1, [&](int64_t) { ParallelFor(pool, pool.threads(), [&](int64_t) { path.peak(rounds); }); });
  return ffi::Error::Success();
}

// Every thread reads its own part of `memory`, `batch` times.
ffi::Error TimedReadHandler(ffi::ThreadPool threads, U8 memory, int64_t batch, ffi::Result<U8> sink,
                            ffi::Result<F32> microseconds) {
  const XlaPool pool(threads);
  const Path& path = ActivePath();
  const auto* words = reinterpret_cast<const uint64_t*>(memory.typed_data());
  const auto part = static_cast<int64_t>(memory.element_count()) / 8 / pool.threads();
  std::vector<uint64_t> results(static_cast<size_t>(pool.threads()));
  Time(microseconds, batch, [&](int64_t) {
    ParallelFor(pool, pool.threads(), [&](int64_t thread) {
      for (int64_t i = 0; i < batch; ++i) {
        results[static_cast<size_t>(thread)] |= path.elementwise->read(words + thread * part, part);
      }
    });
  });
  for (uint64_t result : results) sink->typed_data()[0] = static_cast<uint8_t>(result);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace trix

namespace ffi = xla::ffi;

XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixTimedMatmul, trix::TimedMatmulHandler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::U8>()
                                  .Arg<trix::F32>()
                                  .Attr<int64_t>("batch")
                                  .Ret<trix::F32>()
                                  .Ret<trix::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixTimedTileFfn, trix::TimedTileFfnHandler,
                              trix::BindRoutedTiles().Attr<int64_t>("batch").Ret<trix::F32>().Ret<trix::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    TrixTimedPeak, trix::TimedPeakHandler,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<int64_t>("rounds").Ret<trix::F32>().Ret<trix::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    TrixTimedRead, trix::TimedReadHandler,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<trix::U8>().Attr<int64_t>("batch").Ret<trix::U8>().Ret<trix::F32>());
