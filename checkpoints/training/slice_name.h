#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tune {

/// Where several processes share a tensor, each one's slice is called after the tensor and its first element, in
/// row-major order: "model.norm.weight@1024"; what belongs to it likewise: "model.norm.weight@1024.exp_avg".
std::string slice_name(std::string_view tensor, std::int64_t first);

struct SliceName {
  std::string tensor;                 // "model.norm.weight.exp_avg"
  std::optional<std::int64_t> first;  // nothing: the whole tensor
};
SliceName parse_slice_name(std::string_view name);

}  // namespace tune
