#include "litert/vulkan.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace tandem::litert {
namespace {

// Vulkan 1.0, as far as it is needed (vulkan_core.h).
using VkResult = int32_t;
using VkInstance = void*;
using VkPhysicalDevice = void*;
using VoidFunction = void (*)();
using GetInstanceProcAddr = VoidFunction (*)(VkInstance, const char*);

constexpr VkResult kSuccess = 0, kIncomplete = 5;
constexpr int32_t kApplicationInfo = 0, kInstanceCreateInfo = 1;
constexpr uint32_t kApiVersion = (1u << 22) | (1u << 12);  // 1.1, what Dawn asks for
constexpr uint32_t kDeviceLocal = 1;
constexpr uint32_t kMaxDevices = 64;

struct ApplicationInfo {
  int32_t type = kApplicationInfo;
  const void* next = nullptr;
  const char* application = "tandem";
  uint32_t application_version = 0;
  const char* engine = "tandem";
  uint32_t engine_version = 0;
  uint32_t api_version = kApiVersion;
};
struct InstanceCreateInfo {
  int32_t type = kInstanceCreateInfo;
  const void* next = nullptr;
  uint32_t flags = 0;
  const ApplicationInfo* application = nullptr;
  uint32_t layer_count = 0;
  const char* const* layers = nullptr;
  uint32_t extension_count = 0;
  const char* const* extensions = nullptr;
};
struct Properties {
  uint32_t api_version, driver_version, vendor, device;
  int32_t type;
  char name[256];
  alignas(8) std::byte rest[2048];  // limits and more; 548 bytes in Vulkan 1.0
};
struct MemoryProperties {
  uint32_t type_count;
  struct {
    uint32_t flags, heap;
  } types[32];
  uint32_t heap_count;
  struct {
    uint64_t bytes;
    uint32_t flags;
  } heaps[16];
};
static_assert(offsetof(Properties, name) == 20);
static_assert(offsetof(MemoryProperties, heaps) == 264 && sizeof(MemoryProperties) == 520);

using CreateInstance = VkResult (*)(const InstanceCreateInfo*, const void*, VkInstance*);
using DestroyInstance = void (*)(VkInstance, const void*);
using EnumerateDevices = VkResult (*)(VkInstance, uint32_t*, VkPhysicalDevice*);
using GetProperties = void (*)(VkPhysicalDevice, Properties*);
using GetMemory = void (*)(VkPhysicalDevice, MemoryProperties*);

const char* kind_name(int32_t type) {
  constexpr const char* kNames[] = {"other", "integrated", "discrete", "virtual", "cpu"};
  return type >= 0 && type < static_cast<int32_t>(std::size(kNames)) ? kNames[type] : "other";
}

VulkanDevice describe(VkPhysicalDevice device, GetProperties get_properties, GetMemory get_memory) {
  Properties properties{};
  MemoryProperties memory{};
  get_properties(device, &properties);
  get_memory(device, &memory);
  VulkanDevice out;
  out.name.assign(properties.name, strnlen(properties.name, sizeof(properties.name)));
  out.kind = kind_name(properties.type);
  const uint32_t heaps = std::min<uint32_t>(memory.heap_count, std::size(memory.heaps));
  for (uint32_t i = 0; i < heaps; ++i) {
    if ((memory.heaps[i].flags & kDeviceLocal) != 0)
      out.memory_bytes = std::max(out.memory_bytes, memory.heaps[i].bytes);
  }
  return out;
}

}  // namespace

Result<std::vector<VulkanDevice>> vulkan_devices() {
  // Never closed: drivers leave threads and destructors behind.
  void* loader = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
  if (loader == nullptr) {
    return Status(Code::kBackend,
                  "there is no Vulkan loader (libvulkan.so.1); install it (Debian: libvulkan1) and the "
                  "GPU's driver");
  }
  const auto get = reinterpret_cast<GetInstanceProcAddr>(dlsym(loader, "vkGetInstanceProcAddr"));
  const auto create = get == nullptr ? nullptr : reinterpret_cast<CreateInstance>(get(nullptr, "vkCreateInstance"));
  if (create == nullptr) return Status(Code::kBackend, "libvulkan.so.1 is no Vulkan loader; reinstall it");
  const ApplicationInfo application;
  InstanceCreateInfo info;
  info.application = &application;
  VkInstance instance = nullptr;
  if (const VkResult result = create(&info, nullptr, &instance); result != kSuccess) {
    return Status(Code::kBackend, "Vulkan finds no driver that works (vkCreateInstance: " + std::to_string(result) +
                                      "); install the GPU's driver, or check VK_DRIVER_FILES");
  }
  const auto destroy = reinterpret_cast<DestroyInstance>(get(instance, "vkDestroyInstance"));
  const auto enumerate = reinterpret_cast<EnumerateDevices>(get(instance, "vkEnumeratePhysicalDevices"));
  const auto properties = reinterpret_cast<GetProperties>(get(instance, "vkGetPhysicalDeviceProperties"));
  const auto memory = reinterpret_cast<GetMemory>(get(instance, "vkGetPhysicalDeviceMemoryProperties"));
  std::vector<VulkanDevice> devices;
  VkResult result = kSuccess;
  if (enumerate != nullptr && properties != nullptr && memory != nullptr) {
    VkPhysicalDevice found[kMaxDevices] = {};
    uint32_t count = kMaxDevices;
    result = enumerate(instance, &count, found);
    if (result == kSuccess || result == kIncomplete) {
      for (uint32_t i = 0; i < count; ++i) devices.push_back(describe(found[i], properties, memory));
    }
  }
  if (destroy != nullptr) destroy(instance, nullptr);
  if (result != kSuccess && result != kIncomplete) {
    return Status(Code::kBackend, "Vulkan's drivers name no device (vkEnumeratePhysicalDevices: " +
                                      std::to_string(result) + "); reinstall the GPU's driver");
  }
  return devices;
}

}  // namespace tandem::litert
