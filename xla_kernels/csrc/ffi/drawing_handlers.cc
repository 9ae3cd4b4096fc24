#include "ffi/ffi_buffers.h"
#include "ffi/ffi_handlers.h"
#include "ops/operations.h"

namespace trix {
namespace {

ffi::Error DrawHandler(ffi::ThreadPool threads, F32 logits, F32 uniform, F32 temperature, S32 top_k,
                       ffi::Result<S32> token) {
  const Batch batch(*token, 1);
  TRIX_CHECK(batch.Fits(logits, 2) && batch.Fits(uniform, 1) && batch.Fits(temperature, 1) && batch.Fits(top_k, 1),
             "draw: batch axes differ");
  const int64_t rows = FromLast(*token, 0), vocabulary = FromLast(logits, 0);
  TRIX_CHECK(vocabulary >= 1 && FromLast(logits, 1) == rows && FromLast(uniform, 0) == rows &&
                 FromLast(temperature, 0) == rows && FromLast(top_k, 0) == rows,
             "draw: logits must be [batch, vocabulary], all else [batch]");
  for (int64_t b = 0; b < batch.count(); ++b) {
    for (int64_t row = 0; row < rows; ++row) {
      const float number = batch.Slice(uniform, 1, b)[row];
      TRIX_CHECK(number >= 0.0f && number < 1.0f, "draw: a random number is not from 0 to 1");
      TRIX_CHECK(batch.Slice(temperature, 1, b)[row] >= 0.0f, "draw: a temperature is negative or no number");
      TRIX_CHECK(batch.Slice(top_k, 1, b)[row] >= 1, "draw: top_k must be at least 1");
    }
  }
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      Draw(pool, batch.Slice(logits, 2, b), rows, vocabulary,
           {batch.Slice(uniform, 1, b), batch.Slice(temperature, 1, b), batch.Slice(top_k, 1, b)},
           batch.Slice(*token, 1, b));
    }
  });
}

}  // namespace
}  // namespace trix

namespace ffi = xla::ffi;
using trix::F32;

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    TrixDraw, trix::DrawHandler,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<F32>().Arg<F32>().Arg<F32>().Arg<trix::S32>().Ret<trix::S32>());
