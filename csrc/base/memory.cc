#include "base/memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>

namespace tandem {
namespace {

constexpr uint64_t kUnlimited = UINT64_MAX;

std::optional<uint64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // no such file, or "max"
}

// The value behind the first line that begins with `name`; 0 when there is none.
uint64_t read_field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string key;
    uint64_t value = 0;
    if (words >> key >> value && key == name) return value;
  }
  return 0;
}

// What one control group leaves: file cache counts as free, since the kernel gives it up first.
uint64_t left_in_group(const std::string& folder, const char* limit, const char* usage, const char* prefix) {
  const auto most = read_number(folder + "/" + limit);
  const auto used = read_number(folder + "/" + usage);
  if (!most || !used) return kUnlimited;
  const std::string stat = folder + "/memory.stat";
  const uint64_t files =
      read_field(stat, std::string(prefix) + "inactive_file") + read_field(stat, std::string(prefix) + "active_file");
  const uint64_t held = *used - std::min(*used, files);
  return *most - std::min(*most, held);
}

// The least that the group `path` and those around it leave. In a container the path may not exist below `mount`: the
// container's own group is then the mount itself.
uint64_t left_in_groups(const std::string& mount, std::string path, const char* limit, const char* usage,
                        const char* prefix) {
  uint64_t least = kUnlimited;
  while (true) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    least = std::min(least, left_in_group(mount + path, limit, usage, prefix));
    if (path.empty()) return least;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

}  // namespace

uint64_t available_memory(const std::string& root) {
  uint64_t least = kUnlimited;
  if (const uint64_t kibibytes = read_field(root + "proc/meminfo", "MemAvailable:")) least = kibibytes * 1024;

  std::ifstream groups(root + "proc/self/cgroup");  // "number:controllers:/path"
  std::string line;
  while (std::getline(groups, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1), mount = root + "sys/fs/cgroup";
    if (controllers == ",,") {
      for (const char* folder : {"", "/unified"}) {
        least = std::min(least, left_in_groups(mount + folder, path, "memory.max", "memory.current", ""));
      }
    } else if (controllers.find(",memory,") != std::string::npos) {
      least = std::min(
          least, left_in_groups(mount + "/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"));
    }
  }
  if (const char* wish = std::getenv("TANDEM_MEMORY_LIMIT")) {
    char* end = nullptr;
    const unsigned long long bytes = std::strtoull(wish, &end, 10);
    if (end != wish && *end == '\0') least = std::min<uint64_t>(least, bytes);
  }
  return least;
}

std::string gibibytes(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f GiB", static_cast<double>(bytes) / (1 << 30));
  return text;
}

}  // namespace tandem
