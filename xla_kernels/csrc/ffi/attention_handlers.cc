#include <algorithm>
#include <string>

#include "ffi/ffi_buffers.h"
#include "ffi/ffi_handlers.h"
#include "ops/operations.h"

namespace trix {
namespace {

ffi::Error CachedAttentionHandler(ffi::ThreadPool threads, F32 q, F32 k, F32 v, S32 position, F32 keys, F32 values,
                                  float scale, ffi::Result<F32> out, ffi::Result<F32> new_keys,
                                  ffi::Result<F32> new_values) {
  // Under vmap JAX broadcasts all operands, so leading axes are more rows.
  TRIX_CHECK(Rank(q) >= 4 && Rank(keys) == Rank(q) + 1 && Rank(values) == Rank(q) && Rank(position) == Rank(q) - 3,
             "cached_attention: ranks differ");
  const auto same = [](const auto& a, const auto& b) {
    return a.dimensions().size() == b.dimensions().size() &&
           std::equal(a.dimensions().begin(), a.dimensions().end(), b.dimensions().begin());
  };
  TRIX_CHECK(same(k, q) && same(v, q) && same(*out, q) && same(*new_keys, keys) && same(*new_values, values),
             "cached_attention: q, k, v and the result have one shape, and so have caches before and after");
  CacheShape shape{1, FromLast(q, 2), FromLast(q, 1), FromLast(q, 0), FromLast(values, 1), scale};
  for (int64_t axis = 0; axis + 3 < Rank(q); ++axis) {
    const auto index = static_cast<size_t>(axis);
    shape.batch *= q.dimensions()[index];
    TRIX_CHECK(keys.dimensions()[index] == q.dimensions()[index] &&
                   values.dimensions()[index] == q.dimensions()[index] &&
                   position.dimensions()[index] == q.dimensions()[index],
               "cached_attention: batch axes differ");
  }
  TRIX_CHECK(FromLast(keys, 3) == shape.heads && FromLast(keys, 2) * kCacheMultiple == shape.slots &&
                 FromLast(keys, 1) == shape.width && FromLast(keys, 0) == kCacheMultiple &&
                 FromLast(values, 2) == shape.heads && FromLast(values, 0) == shape.width,
             "cached_attention: keys must be [batch, heads, slots / 16, width, 16], "
             "values [batch, heads, slots, width]");
  for (int64_t b = 0; b < shape.batch; ++b) {
    const int64_t first = position.typed_data()[b];
    TRIX_CHECK(first >= 0 && first + shape.length <= shape.slots, "cached_attention: " + std::to_string(shape.length) +
                                                                      " token(s) after " + std::to_string(first) +
                                                                      " in a cache of " + std::to_string(shape.slots));
  }
  // XLA reuses the old caches for the new ones where nothing else reads the old ones.
  if (new_keys->typed_data() != keys.typed_data()) {
    std::copy_n(keys.typed_data(), keys.element_count(), new_keys->typed_data());
  }
  if (new_values->typed_data() != values.typed_data()) {
    std::copy_n(values.typed_data(), values.element_count(), new_values->typed_data());
  }
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    CachedAttention(pool, q.typed_data(), k.typed_data(), v.typed_data(), position.typed_data(), shape,
                    new_keys->typed_data(), new_values->typed_data(), out->typed_data());
  });
}

}  // namespace
}  // namespace trix

namespace ffi = xla::ffi;

XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixCachedAttention, trix::CachedAttentionHandler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::S32>()
                                  .Arg<trix::F32>()
                                  .Arg<trix::F32>()
                                  .Attr<float>("scale")
                                  .Ret<trix::F32>()
                                  .Ret<trix::F32>()
                                  .Ret<trix::F32>());
