#include "ffi_handlers.h"

#include <exception>
#include <string>

#include "ffi_buffers.h"
#include "operations.h"

namespace trix {
namespace {

// XLA's frames know nothing of exceptions.
template <typename Body>
ffi::Error WithoutExceptions(const Body& body) {
  try {
    body();
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, std::string("xla_kernels: ") + error.what());
  }
}

#define TRIX_CHECK(condition, what) \
  if (!(condition)) return Invalid(what)

ffi::Error CheckPacked(int64_t bytes, int64_t m, int64_t k) {
  TRIX_CHECK(k >= 1 && k <= kMaxColumns, "matrices have 1 to " + std::to_string(kMaxColumns) + " columns, not " +
                                             std::to_string(k));
  TRIX_CHECK(bytes == PackedBytes(m, k), "a packed matrix of " + std::to_string(m) + " x " + std::to_string(k) +
                                             " has " + std::to_string(PackedBytes(m, k)) + " bytes, not " +
                                             std::to_string(bytes));
  return ffi::Error::Success();
}

ffi::Error AccumulateHandler(ffi::ThreadPool threads, S8 q, U8 packed, ffi::Result<S32> acc) {
  const Batch batch(*acc, 2);
  TRIX_CHECK(batch.Fits(q, 2) && batch.Fits(packed, 1), "accumulate: batch axes differ");
  const int64_t n = FromLast(q, 1), k = FromLast(q, 0), m = FromLast(*acc, 0);
  TRIX_CHECK(FromLast(*acc, 1) == n, "accumulate: rows of q and of the result differ");
  if (ffi::Error error = CheckPacked(FromLast(packed, 0), m, k); error.failure()) return error;
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      Accumulate(pool, batch.Slice(q, 2, b), n, k, batch.Slice(packed, 1, b), m, batch.Slice(*acc, 2, b));
    }
  });
}

ffi::Error TernaryMatmulHandler(ffi::ThreadPool threads, F32 x, U8 packed, F32 scales, ffi::Result<F32> y) {
  const Batch batch(*y, 2);
  TRIX_CHECK(batch.Fits(x, 2) && batch.Fits(packed, 1) && batch.Fits(scales, 1), "ternary_matmul: batch axes differ");
  const int64_t n = FromLast(x, 1), k = FromLast(x, 0), m = FromLast(scales, 0);
  TRIX_CHECK(FromLast(*y, 1) == n && FromLast(*y, 0) == m, "ternary_matmul: the result must be n x m");
  if (ffi::Error error = CheckPacked(FromLast(packed, 0), m, k); error.failure()) return error;
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      TernaryMatmul(pool, batch.Slice(x, 2, b), n, k, batch.Slice(packed, 1, b), m, batch.Slice(scales, 1, b),
                    batch.Slice(*y, 2, b));
    }
  });
}

// Shared by both kinds of signatures; `of_entry` fills in what differs.
template <typename OfEntry>
ffi::Error RouteWith(ffi::ThreadPool threads, F32 x, F32 scale, F32 offset, ffi::Result<S32> tile,
                     ffi::Result<F32> score, const Batch& batch, const OfEntry& of_entry) {
  TRIX_CHECK(batch.Fits(x, 2) && batch.Fits(scale, 1) && batch.Fits(offset, 1) && batch.Fits(*score, 2),
             "route: batch axes differ");
  const int64_t n = FromLast(x, 1), d = FromLast(x, 0), tiles = FromLast(scale, 0), top_k = FromLast(*tile, 0);
  TRIX_CHECK(FromLast(offset, 0) == tiles, "route: scale and offset must have one entry a tile");
  TRIX_CHECK(FromLast(*tile, 1) == n && FromLast(*score, 1) == n && FromLast(*score, 0) == top_k,
             "route: the results must be n x top_k");
  TRIX_CHECK(top_k >= 1 && top_k <= tiles, "route: top_k must be from 1 to the number of tiles");
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      Signatures signatures{nullptr, nullptr, tiles, d, batch.Slice(scale, 1, b), batch.Slice(offset, 1, b)};
      of_entry(b, &signatures);
      Route(pool, batch.Slice(x, 2, b), n, signatures, top_k, batch.Slice(*tile, 2, b), batch.Slice(*score, 2, b));
    }
  });
}

ffi::Error RoutePackedHandler(ffi::ThreadPool threads, F32 x, U8 packed, F32 scale, F32 offset,
                              ffi::Result<S32> tile, ffi::Result<F32> score) {
  const Batch batch(*tile, 2);
  TRIX_CHECK(batch.Fits(packed, 1), "route: batch axes differ");
  if (ffi::Error error = CheckPacked(FromLast(packed, 0), FromLast(scale, 0), FromLast(x, 0)); error.failure()) {
    return error;
  }
  return RouteWith(threads, x, scale, offset, tile, score, batch,
                   [&](int64_t b, Signatures* signatures) { signatures->packed = batch.Slice(packed, 1, b); });
}

ffi::Error RouteTallyHandler(ffi::ThreadPool threads, F32 x, S8 tally, F32 scale, F32 offset, ffi::Result<S32> tile,
                             ffi::Result<F32> score) {
  const Batch batch(*tile, 2);
  TRIX_CHECK(batch.Fits(tally, 2), "route: batch axes differ");
  TRIX_CHECK(FromLast(tally, 1) == FromLast(scale, 0) && FromLast(tally, 0) == FromLast(x, 0),
             "route: signatures must be tiles x d");
  TRIX_CHECK(FromLast(x, 0) >= 1 && FromLast(x, 0) <= kMaxTallyColumns,
             "route: int8 signatures have 1 to " + std::to_string(kMaxTallyColumns) + " columns");
  return RouteWith(threads, x, scale, offset, tile, score, batch,
                   [&](int64_t b, Signatures* signatures) { signatures->tally = batch.Slice(tally, 2, b); });
}

ffi::Error RoutedTileFfnHandler(ffi::ThreadPool threads, F32 x, U8 up, F32 up_scale, U8 down, F32 down_scale,
                                S32 tile, F32 gate, bool squared, ffi::Result<F32> y) {
  const Batch batch(*y, 2);
  TRIX_CHECK(batch.Fits(x, 2) && batch.Fits(up, 2) && batch.Fits(up_scale, 2) && batch.Fits(down, 2) &&
                 batch.Fits(down_scale, 2) && batch.Fits(tile, 2) && batch.Fits(gate, 2),
             "routed_tile_ffn: batch axes differ");
  const int64_t n = FromLast(x, 1), d = FromLast(x, 0), count = FromLast(up_scale, 1), h = FromLast(up_scale, 0);
  const int64_t top_k = FromLast(tile, 0);
  TRIX_CHECK(FromLast(up, 1) == count && FromLast(down, 1) == count && FromLast(down_scale, 1) == count,
             "routed_tile_ffn: numbers of tiles differ");
  TRIX_CHECK(FromLast(down_scale, 0) == d && FromLast(*y, 1) == n && FromLast(*y, 0) == d,
             "routed_tile_ffn: widths differ");
  TRIX_CHECK(FromLast(tile, 1) == n && FromLast(gate, 1) == n && FromLast(gate, 0) == top_k && top_k >= 1,
             "routed_tile_ffn: tile and gate must be n x k");
  if (ffi::Error error = CheckPacked(FromLast(up, 0), h, d); error.failure()) return error;
  if (ffi::Error error = CheckPacked(FromLast(down, 0), d, h); error.failure()) return error;
  const XlaPool pool(threads);
  for (int64_t b = 0; b < batch.count(); ++b) {
    const int32_t* tiles_of = batch.Slice(tile, 2, b);
    if (const int64_t bad = FirstBadTile(tiles_of, n * top_k, count); bad >= 0) {
      return Invalid("routed_tile_ffn: tile " + std::to_string(tiles_of[bad]) + " of token " +
                     std::to_string(bad / top_k) + " is out of range; there are " + std::to_string(count) + " tiles");
    }
  }
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      const Tiles tiles{count, d, h, batch.Slice(up, 2, b), batch.Slice(up_scale, 2, b), batch.Slice(down, 2, b),
                        batch.Slice(down_scale, 2, b), squared};
      RoutedTileFfn(pool, batch.Slice(x, 2, b), n, tiles, batch.Slice(tile, 2, b), batch.Slice(gate, 2, b), top_k,
                    batch.Slice(*y, 2, b));
    }
  });
}

}  // namespace
}  // namespace trix

namespace ffi = xla::ffi;

XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixAccumulate, trix::AccumulateHandler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<trix::S8>().Arg<trix::U8>().Ret<trix::S32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixTernaryMatmul, trix::TernaryMatmulHandler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::U8>()
                                  .Arg<trix::F32>()
                                  .Ret<trix::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixRoutePacked, trix::RoutePackedHandler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::U8>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::F32>()
                                  .Ret<trix::S32>()
                                  .Ret<trix::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixRouteTally, trix::RouteTallyHandler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::S8>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::F32>()
                                  .Ret<trix::S32>()
                                  .Ret<trix::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixRoutedTileFfn, trix::RoutedTileFfnHandler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::U8>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::U8>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::S32>()
                                  .Arg<trix::F32>()
                                  .Attr<bool>("squared")
                                  .Ret<trix::F32>());
