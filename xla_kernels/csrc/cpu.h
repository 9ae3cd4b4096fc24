// Tell which instructions this CPU and its operating system can run. Each function exists on its own architecture only.
// NEON is part of every AArch64 CPU.
#pragma once

namespace trix {

bool CpuHasAvx2();
bool CpuHasAvx512Vnni();
bool CpuHasDotprod();
bool CpuHasI8mm();

}  // namespace trix
