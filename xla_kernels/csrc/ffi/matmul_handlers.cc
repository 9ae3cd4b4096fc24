#include <string>

#include "ffi/ffi_buffers.h"
#include "ffi/ffi_handlers.h"
#include "ops/operations.h"

namespace trix {
namespace {

ffi::Error AccumulateHandler(ffi::ThreadPool threads, S8 q, U8 packed, ffi::Result<S32> acc) {
  const Batch batch(*acc, 2);
  TRIX_CHECK(batch.Fits(q, 2) && batch.Fits(packed, 1), "accumulate: batch axes differ");
  const int64_t n = FromLast(q, 1), k = FromLast(q, 0), m = FromLast(*acc, 0);
  TRIX_CHECK(FromLast(*acc, 1) == n, "accumulate: rows of q and of the result differ");
  if (ffi::Error error = CheckPacked(packed, m, k); error.failure()) return error;
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      Accumulate(pool, batch.Slice(q, 2, b), n, k, batch.Slice(packed, 1, b), m, batch.Slice(*acc, 2, b));
    }
  });
}

// `kMatmul` is the product for weights of the buffer's kind.
template <typename Buffer, auto kMatmul>
ffi::Error MatmulHandler(ffi::ThreadPool threads, F32 x, Buffer packed, F32 scales, F32 bias, ffi::Result<F32> y) {
  const std::string name = std::is_same_v<Buffer, S8> ? "int8_matmul" : "ternary_matmul";
  const Batch batch(*y, 2);
  TRIX_CHECK(batch.Fits(x, 2) && batch.Fits(packed, 1) && batch.Fits(scales, 1) && batch.Fits(bias, 1),
             name + ": batch axes differ");
  const int64_t n = FromLast(x, 1), k = FromLast(x, 0), m = FromLast(scales, 0);
  TRIX_CHECK(FromLast(*y, 1) == n && FromLast(*y, 0) == m, name + ": the result must be n x m");
  TRIX_CHECK(FromLast(bias, 0) == m || FromLast(bias, 0) == 0, name + ": the bias must have one entry an output");
  if (ffi::Error error = CheckPacked(packed, m, k); error.failure()) return error;
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      kMatmul(pool, batch.Slice(x, 2, b), n, k, batch.Slice(packed, 1, b), m, batch.Slice(scales, 1, b),
              OrNull(batch.Slice(bias, 1, b), FromLast(bias, 0)), batch.Slice(*y, 2, b));
    }
  });
}

}  // namespace
}  // namespace trix

namespace ffi = xla::ffi;

XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixAccumulate, trix::AccumulateHandler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<trix::S8>().Arg<trix::U8>().Ret<trix::S32>());

namespace {

template <typename Packed>
auto BindMatmul() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<trix::F32>()
      .Arg<Packed>()
      .template Arg<trix::F32>()
      .template Arg<trix::F32>()
      .template Ret<trix::F32>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixTernaryMatmul, (trix::MatmulHandler<trix::U8, trix::TernaryMatmul>),
                              BindMatmul<trix::U8>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixInt8Matmul, (trix::MatmulHandler<trix::S8, trix::Int8Matmul>),
                              BindMatmul<trix::S8>());
