#include "cpu.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace trix {

#if defined(__x86_64__)

// The compiler's run-time support reads CPUID and XGETBV. XGETBV tells whether the operating system saves the wide
// registers.
bool CpuHasAvx2() { return __builtin_cpu_supports("avx2"); }

bool CpuHasAvx512Vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

#elif defined(__aarch64__) && defined(__linux__)

// Bits of AT_HWCAP and AT_HWCAP2 (Linux, arch/arm64/include/uapi/asm/hwcap.h); old C libraries lack their names.
bool CpuHasDotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool CpuHasI8mm() { return getauxval(26 /* AT_HWCAP2 */) >> 13 & 1; }

#elif defined(__aarch64__) && defined(__APPLE__)

static bool Sysctl(const char* name) {
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
}

bool CpuHasDotprod() { return Sysctl("hw.optional.arm.FEAT_DotProd"); }
bool CpuHasI8mm() { return Sysctl("hw.optional.arm.FEAT_I8MM"); }

#endif

}  // namespace trix
