#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "checkpoints/base_model.h"

namespace tune {

/// The base model that an adapter was trained on.
struct KnownBase {
  std::string path;  // as the recipe had it
  std::string hash;  // hash_of(BaseModel) then
};

/// From run.json of the run whose final folder or checkpoint `adapter` is, or from tune_export.json of an exported
/// adapter; nothing for anybody else's. Error{Fault::data} when such a file is damaged.
std::optional<KnownBase> known_base_of(const std::filesystem::path& adapter);

/// Error{Fault::data} when it is known that the PEFT folder was trained on another model than `base`. A note where one
/// is a GGUF and the other isn't: their numbers differ even if both are the same model.
void check_base(const std::filesystem::path& adapter, const BaseModel& base);

}  // namespace tune
