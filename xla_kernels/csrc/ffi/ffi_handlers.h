// XLA FFI handlers (typed custom calls) of the operations in `operations.h`, on CPU.
//
// Every buffer may have leading batch axes, because `jax.ffi` adds them under vmap with `expand_dims`. In each of them
// an operand has the length of the result or 1. The handlers check all shapes and indices that they use and report
// errors.
#pragma once

#include "xla/ffi/api/ffi.h"

XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixAccumulate);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixTernaryMatmul);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixRouteTernary);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixRouteInt8);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixIndexedRouteTernary);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixIndexedRouteInt8);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixRoutedTileFfn);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixRoutedFfnTernary);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixRoutedFfnInt8);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixIndexedFfnTernary);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixIndexedFfnInt8);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixInt8Matmul);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixCachedAttention);
// For the benchmark.
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixTimedMatmul);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixTimedTileFfn);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixTimedPeak);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TrixTimedRead);
