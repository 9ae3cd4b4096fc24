// NEON with the dot product instructions (ARMv8.2 and later: Cortex-A76, Neoverse N1, Apple M1).
#include "cpu.h"
#include "isa/neon_dot.h"
#include "isa/portable.h"

namespace trix {
namespace {

int64_t Peak(int64_t rounds) {
  return PeakOf(rounds, 16, [](int32x4_t sum, int8x16_t one) { return vdotq_s32(sum, one, one); });
}

}  // namespace

extern const Path kNeonDotprod = {
    .name = "neon_dotprod",
    .supported = CpuHasDotprod,
    .macs_per_ns = 40,
    .panel = kDotPanel,
    .dot_wide = DotWide,
    .dot_narrow = DotNarrow,
    .dot_thin = DotThin,
    .add_wide = nullptr,
    .dot_int8 = DotInt8,
    .elementwise = &kBaselineElementwise,
    .peak = Peak,
};

}  // namespace trix
