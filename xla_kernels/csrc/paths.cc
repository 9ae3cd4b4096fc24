// The paths of this architecture, and the one in use.
#include <atomic>
#include <cstring>

#include "path.h"

namespace trix {

extern const Path kPortable;
#if defined(__x86_64__)
extern const Path kAvx512Vnni, kAvx2;
#elif defined(__aarch64__)
extern const Path kNeonI8mm, kNeonDotprod, kNeon;
#endif

const Path* const kPaths[] = {
#if defined(__x86_64__)
    &kAvx512Vnni,
    &kAvx2,
#elif defined(__aarch64__)
    &kNeonI8mm,
    &kNeonDotprod,
    &kNeon,
#endif
    &kPortable,
};
const int kPathCount = sizeof(kPaths) / sizeof(kPaths[0]);

namespace {

const Path* Best() {
  for (const Path* path : kPaths) {
    if (path->supported()) return path;
  }
  return &kPortable;
}

std::atomic<const Path*>& Active() {
  static std::atomic<const Path*> active{Best()};
  return active;
}

}  // namespace

const Path& ActivePath() { return *Active().load(std::memory_order_relaxed); }

bool ForcePath(const char* name) {
  if (name == nullptr) {
    Active().store(Best(), std::memory_order_relaxed);
    return true;
  }
  for (const Path* path : kPaths) {
    if (std::strcmp(path->name, name) == 0 && path->supported()) {
      Active().store(path, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace trix
