// Which instruction set the hand-written kernels use on this machine.
#pragma once

#include <span>
#include <string_view>

#include "base/status.h"

namespace tandem {

// From the plainest to the widest. A build knows those of its own architecture.
enum class Isa : int {
  kBaseline = 0,    // what every CPU of the architecture has: SSE2 on x86-64, NEON on Arm64
  kAvx2 = 1,        // AVX2 + FMA + F16C
  kAvx512 = 2,      // AVX-512 F, BW, DQ and VL
  kAvx512Bf16 = 3,  // and BF16
  kAvx512Amx = 4,   // and AMX with int8, which products of many rows use
};

const char* isa_name(Isa isa);  // "baseline", "avx2", "avx512", "avx512bf16", "avx512amx": values of TANDEM_ISA

// Those that this CPU and operating system can run, plainest first.
std::span<const Isa> available_isas();

// The fastest of them, or the one that the environment variable TANDEM_ISA names: kInvalidRequest if this machine lacks
// it. The fastest is the widest, but for BF16 on CPUs that are slower with it.
Result<Isa> select_isa();

// The rule of select_isa() for a given value of TANDEM_ISA ("" = unset).
Result<Isa> select_isa(std::string_view wanted);

}  // namespace tandem
