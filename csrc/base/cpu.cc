#include "base/cpu.h"

#include <sched.h>
#if defined(__x86_64__)
#include <cpuid.h>
#else
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <utility>

namespace tandem {

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  std::set<std::pair<int, int>> cores;  // (package, core)
  int unknown = 0;                      // CPUs without a topology entry count as cores of their own
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string base = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    std::ifstream package(base + "physical_package_id"), core(base + "core_id");
    int package_id = 0, core_id = 0;
    if (package >> package_id && core >> core_id) {
      cores.emplace(package_id, core_id);
    } else {
      ++unknown;
    }
  }
  return std::max(1, static_cast<int>(cores.size()) + unknown);
}

std::string cpu_name() {
  char name[64];
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0, extended = 0;
  __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);       // AVX2, AVX-512 and VNNI
  __get_cpuid_count(7, 1, &extended, &eax, &eax, &eax);  // AVX-VNNI, AVX512-BF16
  std::snprintf(name, sizeof(name), "x86_64-%08x-%08x-%08x", ebx, ecx, extended);
#else
  std::snprintf(name, sizeof(name), "arm64-%lx-%lx", getauxval(AT_HWCAP), getauxval(AT_HWCAP2));
#endif
  return name;
}

}  // namespace tandem
