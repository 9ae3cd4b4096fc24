// XLA FFI handlers (typed custom calls) of the operations in `operations.h`, on CPU.
//
// Every buffer may have leading batch axes, because `jax.ffi` adds them under vmap with `expand_dims`. In each of them
// an operand has the length of the result or 1. The handlers check all shapes and indices that they use and report
// errors.
#pragma once

#include "xla/ffi/api/ffi.h"

// Every handler: the name that XLA knows it by, and its symbol. Those that start with trix_timed_ are for the
// benchmark.
#define TRIX_HANDLERS(X)                                   \
  X(trix_accumulate, TrixAccumulate)                       \
  X(trix_ternary_matmul, TrixTernaryMatmul)                \
  X(trix_route_ternary, TrixRouteTernary)                  \
  X(trix_route_int8, TrixRouteInt8)                        \
  X(trix_indexed_route_ternary, TrixIndexedRouteTernary)   \
  X(trix_indexed_route_int8, TrixIndexedRouteInt8)         \
  X(trix_routed_tile_ffn, TrixRoutedTileFfn)               \
  X(trix_routed_ffn_ternary, TrixRoutedFfnTernary)         \
  X(trix_routed_ffn_int8, TrixRoutedFfnInt8)               \
  X(trix_indexed_ffn_ternary, TrixIndexedFfnTernary)       \
  X(trix_indexed_ffn_int8, TrixIndexedFfnInt8)             \
  X(trix_int8_matmul, TrixInt8Matmul)                      \
  X(trix_cached_attention, TrixCachedAttention)            \
  X(trix_int8_cached_attention, TrixInt8CachedAttention)   \
  X(trix_normalise, TrixNormalise)                         \
  X(trix_normalise_and_convolve, TrixNormaliseAndConvolve) \
  X(trix_draw, TrixDraw)                                   \
  X(trix_timed_matmul, TrixTimedMatmul)                    \
  X(trix_timed_tile_ffn, TrixTimedTileFfn)                 \
  X(trix_timed_peak, TrixTimedPeak)                        \
  X(trix_timed_read, TrixTimedRead)

#define TRIX_DECLARE(name, symbol) XLA_FFI_DECLARE_HANDLER_SYMBOL(symbol);
TRIX_HANDLERS(TRIX_DECLARE)
#undef TRIX_DECLARE
