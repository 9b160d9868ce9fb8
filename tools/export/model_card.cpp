#include "tools/export/model_card.h"

#include "checkpoints/files/file_system.h"
#include "recipes/schema/document.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

/// Between the first two lines of "---"; empty without them.
std::string front_matter(const std::string& card) {
  constexpr std::string_view start = "---\n";
  if (!card.starts_with(start)) return "";
  const std::size_t end = card.find("\n---", start.size() - 1);
  return end == std::string::npos ? "" : card.substr(start.size(), end + 1 - start.size());
}

}  // namespace

CardFacts read_model_card(const std::filesystem::path& model_folder) {
  const std::filesystem::path path = model_folder / "README.md";
  CardFacts facts;
  if (!std::filesystem::is_regular_file(path)) return facts;
  Problems problems;  // of a file that isn't ours to mend
  const auto document = parse_document(front_matter(read_text(path)), path.string(), problems);
  if (!document) return facts;
  for (const auto& [name, place, value] : document->entries) {
    if (value.kind != YamlValue::Kind::scalar) continue;
    if (name == "license") facts.license = value.text;
    if (name == "license_name") facts.license_name = value.text;
    if (name == "license_link") facts.license_link = value.text;
  }
  return facts;
}

}  // namespace tune
