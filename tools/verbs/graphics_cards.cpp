#include "tools/verbs/graphics_cards.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <memory>

namespace tune {
namespace {

// The few entries of the driver's stable C interface (cuda.h) that are asked here; 0 means success everywhere.
class DriverLibrary {
 public:
  DriverLibrary() : handle_(dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL), &dlclose) {}
  explicit operator bool() const { return handle_ != nullptr; }

  template <typename... Arguments>
  int call(const char* name, Arguments... arguments) const {
    constexpr int kNotFound = 500;  // CUDA_ERROR_NOT_FOUND
    auto* function = reinterpret_cast<int (*)(Arguments...)>(dlsym(handle_.get(), name));
    return function == nullptr ? kNotFound : function(arguments...);
  }

 private:
  std::unique_ptr<void, int (*)(void*)> handle_;
};

GraphicsCard card_at(const DriverLibrary& driver, int index) {
  constexpr int kCapabilityMajor = 75, kCapabilityMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
  int device = 0, major = 0, minor = 0;
  char name[256] = {};
  std::size_t memory = 0;
  driver.call("cuDeviceGet", &device, index);
  driver.call("cuDeviceGetName", &name[0], static_cast<int>(sizeof(name) - 1), device);
  driver.call("cuDeviceTotalMem_v2", &memory, device);
  driver.call("cuDeviceGetAttribute", &major, kCapabilityMajor, device);
  driver.call("cuDeviceGetAttribute", &minor, kCapabilityMinor, device);
  return {.name = name, .memory_bytes = static_cast<std::int64_t>(memory), .capability = major * 10 + minor};
}

}  // namespace

std::optional<GraphicsDriver> find_graphics_driver() {
  const DriverLibrary driver;
  if (!driver) return std::nullopt;
  GraphicsDriver found;
  driver.call("cuDriverGetVersion", &found.cuda_version);
  if (const int code = driver.call("cuInit", 0u); code != 0) {
    found.problem = fmt::format("the driver reports error {} when it starts", code);
    return found;
  }
  int count = 0;
  driver.call("cuDeviceGetCount", &count);
  for (int i = 0; i < count; ++i) found.cards.push_back(card_at(driver, i));
  if (count == 0) found.problem = "no card is visible to this process (CUDA_VISIBLE_DEVICES?)";
  return found;
}

}  // namespace tune
