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
#define TRIX_ADD(name, symbol) handlers[#name] = nb::capsule(reinterpret_cast<void*>(symbol));
    TRIX_HANDLERS(TRIX_ADD)
#undef TRIX_ADD
    return handlers;
  });
  // Increase this with every change of a handler's operands, results or attributes, here and in `native.py`.
  module.attr("interface") = 6;
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
