#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tune {

struct GraphicsCard {
  std::string name;
  std::int64_t memory_bytes = 0;
  int capability = 0;  // 90 = compute capability 9.0
};

/// What NVIDIA's driver says, asked through libcuda.so itself, so that a program built without CUDA can tell as well.
struct GraphicsDriver {
  int cuda_version = 0;  // the newest that the driver serves, 13010 = 13.1
  std::string problem;   // why there are no cards, "" when there is none
  std::vector<GraphicsCard> cards;
};

/// Nothing when no driver is installed.
std::optional<GraphicsDriver> find_graphics_driver();

}  // namespace tune
