#pragma once
#include <filesystem>
#include <string>

namespace tune {

/// What a model's card (README.md, with YAML between its first two lines of "---") says of its licence. Empty where
/// there is no card, or nothing that can be read.
struct CardFacts {
  std::string license;       // Hugging Face's identifier: "apache-2.0", "llama2", "other"
  std::string license_name;  // of an "other" one
  std::string license_link;
};
CardFacts read_model_card(const std::filesystem::path& model_folder);

}  // namespace tune
