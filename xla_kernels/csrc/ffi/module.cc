// The Python module `xla_kernels._native`: handlers as capsules for JAX to register, and the choice of path.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "ffi/ffi_handlers.h"
#include "path.h"

namespace nb = nanobind;

NB_MODULE(_native, module) {
  module.def("handlers", [] {
    nb::dict handlers;
    const auto add = [&](const char* name, auto* handler) {
      handlers[name] = nb::capsule(reinterpret_cast<void*>(handler));
    };
    add("trix_accumulate", TrixAccumulate);
    add("trix_ternary_matmul", TrixTernaryMatmul);
    add("trix_route_ternary", TrixRouteTernary);
    add("trix_route_int8", TrixRouteInt8);
    add("trix_indexed_route_ternary", TrixIndexedRouteTernary);
    add("trix_indexed_route_int8", TrixIndexedRouteInt8);
    add("trix_routed_tile_ffn", TrixRoutedTileFfn);
    add("trix_routed_ffn_ternary", TrixRoutedFfnTernary);
    add("trix_routed_ffn_int8", TrixRoutedFfnInt8);
    add("trix_indexed_ffn_ternary", TrixIndexedFfnTernary);
    add("trix_indexed_ffn_int8", TrixIndexedFfnInt8);
    add("trix_int8_matmul", TrixInt8Matmul);
    add("trix_cached_attention", TrixCachedAttention);
    add("trix_timed_matmul", TrixTimedMatmul);
    add("trix_timed_tile_ffn", TrixTimedTileFfn);
    add("trix_timed_peak", TrixTimedPeak);
    add("trix_timed_read", TrixTimedRead);
    return handlers;
  });
  // Increase this with every change of a handler's operands, results or attributes, here and in `native.py`.
  module.attr("interface") = 3;
  // The version of the headers at compilation. XLA refuses handlers of newer headers than its own.
  module.attr("ffi_version") = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  module.def("paths", [] {
    std::vector<std::string> names;
    for (int i = 0; i < trix::kPathCount; ++i) {
      if (trix::kPaths[i]->supported()) names.emplace_back(trix::kPaths[i]->name);
    }
    return names;
  });
  module.def("active_path", [] { return trix::ActivePath().name; });
  module.def("force_path", [](const std::string& name) { return trix::ForcePath(name.c_str()); });
}
