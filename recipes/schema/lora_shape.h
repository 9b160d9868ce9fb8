#pragma once
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "recipes/schema/recipe.h"

namespace tune {

/// Whether a key of a pattern means the module: "down_proj" or "layers.0.mlp.down_proj" of
/// "model.layers.0.mlp.down_proj".
inline bool names_module(std::string_view key, std::string_view module) {
  return module.ends_with(key) && (module.size() == key.size() || module[module.size() - key.size() - 1] == '.');
}

/// Of the keys that mean the module the longest one's value (PEFT takes the first: they are written longest first).
template <class Value>
Value value_for(const std::map<std::string, Value>& pattern, std::string_view module, Value otherwise) {
  std::size_t longest = 0;
  for (const auto& [key, value] : pattern)
    if (key.size() > longest && names_module(key, module)) {
      longest = key.size();
      otherwise = value;
    }
  return otherwise;
}

/// What B A is multiplied with: lora_alpha / lora_r, with rsLoRA (Kalajdzievski 2023) lora_alpha / sqrt(lora_r).
inline double lora_scale(double alpha, std::int64_t rank, bool use_rslora) {
  const auto r = static_cast<double>(rank);
  return alpha / (use_rslora ? std::sqrt(r) : r);
}

inline std::int64_t rank_of(const AdapterOptions& adapter, std::string_view module) {
  return value_for(adapter.rank_pattern, module, adapter.lora_r);
}

inline double scale_of(const AdapterOptions& adapter, std::string_view module) {
  return lora_scale(value_for(adapter.alpha_pattern, module, adapter.lora_alpha), rank_of(adapter, module),
                    adapter.use_rslora);
}

/// Of twice the rank, scaled as before.
inline AdapterOptions of_twice_the_rank(AdapterOptions adapter) {
  const double more = adapter.use_rslora ? std::sqrt(2.0) : 2.0;
  adapter.lora_r *= 2;
  adapter.lora_alpha *= more;
  for (auto& [module, rank] : adapter.rank_pattern) rank *= 2;
  for (auto& [module, alpha] : adapter.alpha_pattern) alpha *= more;
  return adapter;
}

/// The adapter as a run leaves it: PiSSA stores where it began beside what was trained.
inline AdapterOptions stored_adapter(const AdapterOptions& adapter) {
  return adapter.init_lora_weights == LoraInit::pissa ? of_twice_the_rank(adapter) : adapter;
}

}  // namespace tune
