#include <algorithm>
#include <string>

#include "ffi/ffi_buffers.h"
#include "ffi/ffi_handlers.h"
#include "ops/operations.h"

namespace trix {
namespace {

template <typename A, typename B>
bool SameShape(const A& a, const B& b) {
  return a.dimensions().size() == b.dimensions().size() &&
         std::equal(a.dimensions().begin(), a.dimensions().end(), b.dimensions().begin());
}

// What is the same for every kind of cache.
struct TokenBuffers {
  F32 qkv;
  S32 position;
  F32 cos, sin;
  CacheShape shape{};
  Turning turning{};

  // Whether the leading axes of a part of the cache are those of qkv, before its heads and `rank` more.
  template <typename Buffer>
  bool Fits(const Buffer& cache, int64_t rank) const {
    if (Rank(qkv) < 3 || Rank(cache) != Rank(qkv) - 1 + rank || FromLast(cache, rank) != shape.kv_heads) return false;
    const auto leading = qkv.dimensions().begin();
    return std::equal(leading, leading + (Rank(qkv) - 2), cache.dimensions().begin());
  }

  // Checks tokens for a cache whose kv_heads, width and slots `shape` has, and fills in the rest. Under vmap JAX
  // broadcasts all operands, so leading axes are more rows, and of the tables they are those of vmap alone.
  ffi::Error Check(const F32& out, float scale, bool normalise) {
    TRIX_CHECK(Rank(qkv) >= 3 && Rank(out) == Rank(qkv) && Rank(position) == Rank(qkv) - 2 && Rank(cos) >= 2 &&
                   SameShape(sin, cos),
               "cached_attention: ranks differ");
    shape.batch = 1;
    for (int64_t axis = 0; axis + 2 < Rank(qkv); ++axis) {
      const auto index = static_cast<size_t>(axis);
      shape.batch *= qkv.dimensions()[index];
      TRIX_CHECK(
          position.dimensions()[index] == qkv.dimensions()[index] && out.dimensions()[index] == qkv.dimensions()[index],
          "cached_attention: batch axes differ");
    }
    shape.length = FromLast(qkv, 1);
    shape.heads = FromLast(out, 0) / std::max<int64_t>(1, shape.width);
    TRIX_CHECK(FromLast(out, 1) == shape.length && FromLast(out, 0) == shape.heads * shape.width &&
                   FromLast(qkv, 0) == (shape.heads + 2 * shape.kv_heads) * shape.width && shape.kv_heads >= 1 &&
                   shape.heads % shape.kv_heads == 0,
               "cached_attention: qkv must be [batch, length, (heads + 2 kv_heads) width], "
               "the result [batch, length, heads width], and heads a multiple of kv_heads");
    const int64_t angles = FromLast(cos, 1);
    int64_t tables = 1;
    for (int64_t axis = 0; axis + 2 < Rank(cos); ++axis) {
      const auto index = static_cast<size_t>(axis);
      tables *= cos.dimensions()[index];
      TRIX_CHECK(axis + 3 < Rank(qkv) && cos.dimensions()[index] == qkv.dimensions()[index],
                 "cached_attention: batch axes differ");
    }
    TRIX_CHECK(angles == 0 || (shape.width % 2 == 0 && FromLast(cos, 0) == shape.width / 2),
               "cached_attention: the tables of rotary positions must be [positions, width / 2]");
    turning = {scale,           normalise, angles, shape.batch / std::max<int64_t>(1, tables), cos.typed_data(),
               sin.typed_data()};
    for (int64_t b = 0; b < shape.batch; ++b) {
      const int64_t first = position.typed_data()[b];
      TRIX_CHECK(first >= 0 && first + shape.length <= shape.slots,
                 "cached_attention: " + std::to_string(shape.length) + " token(s) after " + std::to_string(first) +
                     " in a cache of " + std::to_string(shape.slots));
    }
    return ffi::Error::Success();
  }
};

// Fills a new part of a cache from the old one. XLA reuses the old one where nothing else reads it.
template <typename Buffer>
auto* Carry(const Buffer& old, ffi::Result<Buffer>& fresh) {
  if (fresh->typed_data() != old.typed_data()) {
    std::copy_n(old.typed_data(), old.element_count(), fresh->typed_data());
  }
  return fresh->typed_data();
}

ffi::Error CachedAttentionHandler(ffi::ThreadPool threads, F32 qkv, S32 position, F32 cos, F32 sin, F32 keys,
                                  F32 values, float scale, bool normalise, ffi::Result<F32> out,
                                  ffi::Result<F32> new_keys, ffi::Result<F32> new_values) {
  TokenBuffers tokens{qkv, position, cos, sin};
  TRIX_CHECK(Rank(values) >= 4, "cached_attention: ranks differ");
  tokens.shape.kv_heads = FromLast(values, 2);
  tokens.shape.slots = FromLast(values, 1);
  tokens.shape.width = FromLast(values, 0);
  TRIX_CHECK(tokens.Fits(keys, 3) && tokens.Fits(values, 2) && SameShape(*new_keys, keys) &&
                 SameShape(*new_values, values) && FromLast(keys, 2) * kCacheMultiple == tokens.shape.slots &&
                 FromLast(keys, 1) == tokens.shape.width && FromLast(keys, 0) == kCacheMultiple,
             "cached_attention: keys must be [batch, kv_heads, slots / 16, width, 16], "
             "values [batch, kv_heads, slots, width]");
  if (auto error = tokens.Check(*out, scale, normalise); error.failure()) return error;
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    CachedAttention(pool, qkv.typed_data(), position.typed_data(), tokens.shape, tokens.turning, Carry(keys, new_keys),
                    Carry(values, new_values), out->typed_data());
  });
}

ffi::Error Int8CachedAttentionHandler(ffi::ThreadPool threads, F32 qkv, S32 position, F32 cos, F32 sin, S8 keys,
                                      F32 key_scale, S8 values, F32 value_scale, int64_t width, float scale,
                                      bool normalise, ffi::Result<F32> out, ffi::Result<S8> new_keys,
                                      ffi::Result<F32> new_key_scale, ffi::Result<S8> new_values,
                                      ffi::Result<F32> new_value_scale) {
  TokenBuffers tokens{qkv, position, cos, sin};
  TRIX_CHECK(Rank(key_scale) >= 3, "cached_attention: ranks differ");
  tokens.shape.kv_heads = FromLast(key_scale, 1);
  tokens.shape.slots = FromLast(key_scale, 0);
  tokens.shape.width = width;
  TRIX_CHECK(tokens.Fits(keys, 1) && tokens.Fits(values, 1) && tokens.Fits(key_scale, 1) &&
                 tokens.Fits(value_scale, 1) && SameShape(*new_keys, keys) && SameShape(*new_values, values) &&
                 SameShape(*new_key_scale, key_scale) && SameShape(*new_value_scale, value_scale) &&
                 SameShape(key_scale, value_scale) && tokens.shape.slots % kCacheMultiple == 0 &&
                 tokens.shape.slots <= kMaxInt8Columns && width >= 1 && width <= kMaxInt8Columns &&
                 FromLast(keys, 0) == PackedInt8Bytes(tokens.shape.slots, width) &&
                 FromLast(values, 0) == FromLast(keys, 0),
             "cached_attention: keys and values must be packed, [batch, kv_heads, bytes], "
             "their scales [batch, kv_heads, slots]");
  if (auto error = tokens.Check(*out, scale, normalise); error.failure()) return error;
  const Int8Cache cache{Carry(keys, new_keys), Carry(key_scale, new_key_scale), Carry(values, new_values),
                        Carry(value_scale, new_value_scale)};
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    Int8CachedAttention(pool, qkv.typed_data(), position.typed_data(), tokens.shape, tokens.turning, cache,
                        out->typed_data());
  });
}

// Threads, qkv, position and the tables of rotary positions.
auto BindTokens() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<F32>().Arg<S32>().Arg<F32>().Arg<F32>(); }

}  // namespace
}  // namespace trix

namespace ffi = xla::ffi;
using trix::F32;
using trix::S8;

XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixCachedAttention, trix::CachedAttentionHandler,
                              trix::BindTokens()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Attr<float>("scale")
                                  .Attr<bool>("normalise")
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixInt8CachedAttention, trix::Int8CachedAttentionHandler,
                              trix::BindTokens()
                                  .Arg<S8>()
                                  .Arg<F32>()
                                  .Arg<S8>()
                                  .Arg<F32>()
                                  .Attr<int64_t>("width")
                                  .Attr<float>("scale")
                                  .Attr<bool>("normalise")
                                  .Ret<F32>()
                                  .Ret<S8>()
                                  .Ret<F32>()
                                  .Ret<S8>()
                                  .Ret<F32>());
