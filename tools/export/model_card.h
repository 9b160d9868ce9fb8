#pragma once
#include <filesystem>
#include <string>

#include "checkpoints/base_model.h"
#include "tools/export/export.h"

namespace tune {

/// What a model's card (README.md, with YAML between its first two lines of "---") says of its licence. Empty where
/// there is no card, or nothing that can be read.
struct CardFacts {
  std::string license;       // Hugging Face's identifier: "apache-2.0", "llama2", "other"
  std::string license_name;  // of an "other" one
  std::string license_link;
};
CardFacts read_model_card(const std::filesystem::path& model_folder);

/// The same of any base: a GGUF says it in its metadata.
CardFacts licence_of(const BaseModel& base);

/// "models/zephyr/" and "models/zephyr" are called zephyr, "models/smol.Q4_1.gguf" smol.Q4_1, "runs/zephyr/final"
/// zephyr.
std::string name_of(const std::filesystem::path& model);

/// The text of README.md beside what was exported: what it was made of and how, on what data, with what result, as far
/// as the source's run says; front matter as Hugging Face reads it. Names files of data, but no folders.
std::string model_card(const ExportOptions& options, const ExportSource& source, const BaseModel& base);

}  // namespace tune
