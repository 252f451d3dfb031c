// CPU detection through the compiler's own run-time support, which also asks the operating system (XSAVE state).
#include "base/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <string>
#include <vector>

namespace tandem {
namespace {

#if defined(__x86_64__)
// Whether the CPU has AMX for bytes and Linux lets this process use its tiles (since 5.16, on request).
bool amx_permitted() {
#if defined(__linux__)
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  if ((edx & kTile) == 0 || (edx & kInt8) == 0) return false;
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

std::vector<Isa> detect() {
  std::vector<Isa> found = {Isa::kBaseline};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    found.push_back(Isa::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      found.push_back(Isa::kAvx512);
      if (__builtin_cpu_supports("avx512bf16")) found.push_back(Isa::kAvx512Bf16);
      if (__builtin_cpu_supports("avx512vnni") && amx_permitted()) found.push_back(Isa::kAvx512Amx);
    }
  }
#endif
  return found;
}

// Intel's cores multiply pairs of bfloat16 at half the rate of floats (`bench_kernels 2 ISA "12B global" 32256` on
// Emerald Rapids, 8 tokens: 148 and 281 GFLOP/s).
bool bfloat_pays() {
#if defined(__x86_64__)
  return !__builtin_cpu_is("intel");
#else
  return true;
#endif
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512bf16";
    case Isa::kAvx512Amx:
      return "avx512amx";
    case Isa::kBaseline:
      break;
  }
  return "baseline";
}

std::span<const Isa> available_isas() {
  static const std::vector<Isa> found = detect();
  return found;
}

Result<Isa> select_isa() {
  const char* wanted = std::getenv("TANDEM_ISA");
  return select_isa(std::string_view(wanted ? wanted : ""));
}

Result<Isa> select_isa(std::string_view wanted) {
  const std::span<const Isa> isas = available_isas();
  if (wanted.empty()) return isas.back() == Isa::kAvx512Bf16 && !bfloat_pays() ? Isa::kAvx512 : isas.back();
  std::string names;
  for (Isa isa : isas) {
    if (wanted == isa_name(isa)) return isa;
    names += std::string(names.empty() ? "" : ", ") + isa_name(isa);
  }
  return Status(Code::kInvalidRequest,
                "TANDEM_ISA=" + std::string(wanted) + " is not available on this machine; choose one of: " + names);
}

}  // namespace tandem
