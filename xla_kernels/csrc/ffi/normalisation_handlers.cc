#include <string>

#include "ffi/ffi_buffers.h"
#include "ffi/ffi_handlers.h"
#include "ops/operations.h"

namespace trix {
namespace {

// What is added to x, and how the sums are normalised.
struct NormalisationBuffers {
  F32 x, y, scale, bias;

  bool HasSum() const { return FromLast(y, 0) > 0; }

  ffi::Error Check(const Batch& batch, int64_t rank, const F32& sum, const F32& out) const {
    TRIX_CHECK(batch.Fits(x, rank) && batch.Fits(y, rank) && batch.Fits(scale, 1) && batch.Fits(bias, 1) &&
                   batch.Fits(sum, rank),
               "normalise: batch axes differ");
    for (int64_t axis = 0; axis < rank; ++axis) {
      TRIX_CHECK(FromLast(x, axis) == FromLast(out, axis) && FromLast(sum, axis) == FromLast(out, axis) &&
                     (!HasSum() || FromLast(y, axis) == FromLast(out, axis)),
                 "normalise: x, y and the results must have one shape");
    }
    const int64_t d = FromLast(out, 0);
    TRIX_CHECK(d >= 1 && FromLast(scale, 0) == d && (FromLast(bias, 0) == d || FromLast(bias, 0) == 0),
               "normalise: scale and bias must have one entry a column");
    return ffi::Error::Success();
  }

  Normalisation Slice(const Batch& batch, int64_t b, float epsilon) {
    return {FromLast(scale, 0), batch.Slice(scale, 1, b), OrNull(batch.Slice(bias, 1, b), FromLast(bias, 0)), epsilon};
  }

  const float* Added(const Batch& batch, int64_t rank, int64_t b) {
    return HasSum() ? batch.Slice(y, rank, b) : nullptr;
  }
};

ffi::Error NormaliseHandler(ffi::ThreadPool threads, float epsilon, F32 x, F32 y, F32 scale, F32 bias,
                            ffi::Result<F32> sum, ffi::Result<F32> out) {
  const Batch batch(*out, 2);
  NormalisationBuffers buffers{x, y, scale, bias};
  if (auto error = buffers.Check(batch, 2, *sum, *out); error.failure()) return error;
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      Normalise(pool, batch.Slice(x, 2, b), buffers.Added(batch, 2, b), FromLast(*out, 1),
                buffers.Slice(batch, b, epsilon), batch.Slice(*sum, 2, b), batch.Slice(*out, 2, b));
    }
  });
}

ffi::Error NormaliseAndConvolveHandler(ffi::ThreadPool threads, float epsilon, F32 x, F32 y, F32 scale, F32 bias,
                                       F32 taps, F32 inputs, S32 valid, ffi::Result<F32> sum, ffi::Result<F32> out,
                                       ffi::Result<F32> latest) {
  const Batch batch(*out, 3);
  NormalisationBuffers buffers{x, y, scale, bias};
  if (auto error = buffers.Check(batch, 3, *sum, *out); error.failure()) return error;
  const int64_t rows = FromLast(*out, 2), length = FromLast(*out, 1), d = FromLast(*out, 0);
  TRIX_CHECK(batch.Fits(taps, 2) && batch.Fits(inputs, 3) && batch.Fits(valid, 1) && batch.Fits(*latest, 3),
             "normalise_and_convolve: batch axes differ");
  TRIX_CHECK(FromLast(taps, 1) == kTaps && FromLast(taps, 0) == d && FromLast(valid, 0) == rows,
             "normalise_and_convolve: taps must be [4, d], and valid [batch]");
  for (const F32* part : {&inputs, &*latest}) {
    TRIX_CHECK(FromLast(*part, 2) == rows && FromLast(*part, 1) == kTaps - 1 && FromLast(*part, 0) == d,
               "normalise_and_convolve: earlier inputs must be [batch, 3, d]");
  }
  const XlaPool pool(threads);
  for (int64_t b = 0; b < batch.count(); ++b) {
    const int32_t* count = batch.Slice(valid, 1, b);
    for (int64_t row = 0; row < rows; ++row) {
      TRIX_CHECK(count[row] >= 0 && count[row] <= length, "normalise_and_convolve: " + std::to_string(count[row]) +
                                                              " valid tokens of " + std::to_string(length));
    }
  }
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      NormaliseAndConvolve(pool, batch.Slice(x, 3, b), buffers.Added(batch, 3, b), rows, length,
                           buffers.Slice(batch, b, epsilon), batch.Slice(taps, 2, b), batch.Slice(inputs, 3, b),
                           batch.Slice(valid, 1, b), batch.Slice(*sum, 3, b), batch.Slice(*out, 3, b),
                           batch.Slice(*latest, 3, b));
    }
  });
}

// Threads, epsilon, x, y, scale and bias.
auto BindNormalisation() {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<float>("epsilon").Arg<F32>().Arg<F32>().Arg<F32>().Arg<F32>();
}

}  // namespace
}  // namespace trix

namespace ffi = xla::ffi;
using trix::F32;

XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixNormalise, trix::NormaliseHandler, trix::BindNormalisation().Ret<F32>().Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    TrixNormaliseAndConvolve, trix::NormaliseAndConvolveHandler,
    trix::BindNormalisation().Arg<F32>().Arg<F32>().Arg<trix::S32>().Ret<F32>().Ret<F32>().Ret<F32>());
