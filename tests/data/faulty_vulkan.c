// A Vulkan driver for tests that passes everything on to another one (FAULTY_VULKAN_REAL, the path of its library) until
// it fails as FAULTY_VULKAN_FAULT says:
//   no-driver     vkCreateInstance fails            no-device  no physical devices
//   crash         the process ends in vkCreateInstance
//   no-create     vkCreateDevice fails              memory:N   allocations fail after N bytes
//   lost:N        the device is lost at submission N
//   small:N       none, but the device says that it has N bytes of memory
//   discrete      none, but the device says that it is a discrete GPU
//   wrong         as discrete, and every 50th dispatch is left out
// The file FAULTY_VULKAN_MEMORY, where given, always says how many bytes of device memory are taken, and the most so far.
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int32_t VkResult;
typedef void (*Function)(void);
typedef Function (*GetProcAddr)(void*, const char*);
typedef struct {
  int32_t type;
  const void* next;
  uint64_t size;
  uint32_t memory_type;
} AllocateInfo;

enum { kOutOfDeviceMemory = -2, kInitializationFailed = -3, kDeviceLost = -4 };

static GetProcAddr real_instance_address, real_device_address;
static VkResult (*real_submit)(void*, uint32_t, const void*, uint64_t);
static VkResult (*real_submit2)(void*, uint32_t, const void*, uint64_t);
static VkResult (*real_allocate)(void*, const AllocateInfo*, const void*, void*);
static void (*real_free)(void*, uint64_t, const void*);
static VkResult (*real_wait)(void*, uint32_t, const uint64_t*, uint32_t, uint64_t);
static void (*real_dispatch)(void*, uint32_t, uint32_t, uint32_t);
static void (*real_properties)(void*, uint32_t*);
static void (*real_memory_properties)(void*, unsigned char*);
static long long submissions, bytes, dispatches;

static void* library(void) {
  static void* handle;
  if (handle == NULL) handle = dlopen(getenv("FAULTY_VULKAN_REAL"), RTLD_NOW | RTLD_LOCAL);
  return handle;
}

static int fault(const char* name) { return strcmp(getenv("FAULTY_VULKAN_FAULT"), name) == 0; }

// The N of a fault "name:N"; -1 for another one.
static long long limit(const char* name) {
  const char* value = getenv("FAULTY_VULKAN_FAULT");
  const size_t length = strlen(name);
  return strncmp(value, name, length) == 0 && value[length] == ':' ? atoll(value + length + 1) : -1;
}

static int lost(int count) {
  const long long most = limit("lost");
  submissions += count;
  return most >= 0 && submissions > most;
}

static VkResult create_instance_fails(const void* info, const void* allocator, void* instance) {
  (void)info, (void)allocator, (void)instance;
  return kInitializationFailed;
}

static VkResult create_instance_crashes(const void* info, const void* allocator, void* instance) {
  (void)info, (void)allocator, (void)instance;
  abort();
}

static VkResult no_devices(void* instance, uint32_t* count, void* devices) {
  (void)instance, (void)devices;
  *count = 0;
  return 0;
}

static VkResult create_device_fails(void* device, const void* info, const void* allocator, void* out) {
  (void)device, (void)info, (void)allocator, (void)out;
  return kInitializationFailed;
}

static VkResult submit(void* queue, uint32_t count, const void* submits, uint64_t fence) {
  return lost(1) ? kDeviceLost : real_submit(queue, count, submits, fence);
}

static VkResult submit2(void* queue, uint32_t count, const void* submits, uint64_t fence) {
  return lost(1) ? kDeviceLost : real_submit2(queue, count, submits, fence);
}

static VkResult wait_for_fences(void* device, uint32_t count, const uint64_t* fences, uint32_t all, uint64_t timeout) {
  return lost(0) ? kDeviceLost : real_wait(device, count, fences, all, timeout);
}

// Device memory that is there now, to know the size of what is freed. Enough for any test; the rest is not counted.
static struct {
  uint64_t memory, size;
} held[4096];
static pthread_mutex_t held_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t live_bytes, most_bytes;

// Enters `memory` of `size` bytes, or takes it out (size 0), and writes the report.
static void account(uint64_t memory, uint64_t size) {
  const char* path = getenv("FAULTY_VULKAN_MEMORY");
  if (path == NULL || memory == 0) return;
  pthread_mutex_lock(&held_lock);
  const uint64_t wanted = size > 0 ? 0 : memory;
  for (size_t i = 0; i < sizeof held / sizeof *held; ++i) {
    if (held[i].memory != wanted) continue;
    live_bytes += size > 0 ? size : -held[i].size;
    held[i].memory = size > 0 ? memory : 0;
    held[i].size = size;
    break;
  }
  if (live_bytes > most_bytes) most_bytes = live_bytes;
  FILE* report = fopen(path, "w");
  if (report != NULL) {
    fprintf(report, "%llu %llu\n", (unsigned long long)live_bytes, (unsigned long long)most_bytes);
    fclose(report);
  }
  pthread_mutex_unlock(&held_lock);
}

static VkResult allocate(void* device, const AllocateInfo* info, const void* allocator, void* memory) {
  const long long most = limit("memory");
  if (most >= 0 && bytes + (long long)info->size > most) return kOutOfDeviceMemory;
  bytes += (long long)info->size;
  const VkResult result = real_allocate(device, info, allocator, memory);
  if (result == 0) account(*(uint64_t*)memory, info->size);
  return result;
}

static void release(void* device, uint64_t memory, const void* allocator) {
  account(memory, 0);
  real_free(device, memory, allocator);
}

static void dispatch(void* commands, uint32_t x, uint32_t y, uint32_t z) {
  if (!fault("wrong") || ++dispatches % 50 != 0) real_dispatch(commands, x, y, z);
}

static void properties(void* device, uint32_t* out) {
  real_properties(device, out);
  out[4] = 2;  // deviceType: VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
}

// VkPhysicalDeviceMemoryProperties: 32 types of memory, the count of heaps at 260, then heaps of a size and flags.
static void memory_properties(void* device, unsigned char* out) {
  real_memory_properties(device, out);
  uint32_t heaps;
  memcpy(&heaps, out + 260, sizeof heaps);
  const uint64_t size = (uint64_t)limit("small");
  for (uint32_t i = 0; i < heaps; ++i) memcpy(out + 264 + 16 * i, &size, sizeof size);
}

static Function device_address(void* device, const char* name) {
  const Function real = real_device_address(device, name);
  if (real == NULL) return NULL;
  if (strcmp(name, "vkQueueSubmit") == 0) return real_submit = (void*)real, (Function)submit;
  if (strcmp(name, "vkQueueSubmit2") == 0) return real_submit2 = (void*)real, (Function)submit2;
  if (strcmp(name, "vkWaitForFences") == 0) return real_wait = (void*)real, (Function)wait_for_fences;
  if (strcmp(name, "vkCmdDispatch") == 0) return real_dispatch = (void*)real, (Function)dispatch;
  if (strcmp(name, "vkFreeMemory") == 0) return real_free = (void*)real, (Function)release;
  if (strcmp(name, "vkAllocateMemory") == 0) return real_allocate = (void*)real, (Function)allocate;
  return real;
}

__attribute__((visibility("default"))) Function vk_icdGetInstanceProcAddr(void* instance, const char* name) {
  if (real_instance_address == NULL) real_instance_address = (void*)dlsym(library(), "vk_icdGetInstanceProcAddr");
  const Function real = real_instance_address(instance, name);
  if (strcmp(name, "vkCreateInstance") == 0 && fault("no-driver")) return (Function)create_instance_fails;
  if (strcmp(name, "vkCreateInstance") == 0 && fault("crash")) return (Function)create_instance_crashes;
  if (strcmp(name, "vkEnumeratePhysicalDevices") == 0 && fault("no-device")) return (Function)no_devices;
  if (strcmp(name, "vkCreateDevice") == 0 && fault("no-create")) return (Function)create_device_fails;
  if (strcmp(name, "vkGetPhysicalDeviceProperties") == 0 && (fault("discrete") || fault("wrong"))) {
    return real_properties = (void*)real, (Function)properties;
  }
  if (strcmp(name, "vkGetPhysicalDeviceMemoryProperties") == 0 && limit("small") >= 0) {
    return real_memory_properties = (void*)real, (Function)memory_properties;
  }
  if (strcmp(name, "vkGetDeviceProcAddr") == 0) return real_device_address = (void*)real, (Function)device_address;
  return real;
}

__attribute__((visibility("default"))) VkResult vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t* version) {
  VkResult (*real)(uint32_t*) = (void*)dlsym(library(), "vk_icdNegotiateLoaderICDInterfaceVersion");
  return real(version);
}

__attribute__((visibility("default"))) Function vk_icdGetPhysicalDeviceProcAddr(void* instance, const char* name) {
  static GetProcAddr real;
  if (real == NULL) real = (void*)dlsym(library(), "vk_icdGetPhysicalDeviceProcAddr");
  return real != NULL ? real(instance, name) : NULL;
}
