#include "tools/export/known_base.h"

#include <fmt/format.h>

#include "checkpoints/files/json.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "tools/export/mark.h"
#include "train/model_hash.h"

namespace tune {

namespace fs = std::filesystem;

std::optional<KnownBase> known_base_of(const fs::path& adapter) {
  const fs::path exported = adapter / kExportMarkFile;
  if (fs::is_regular_file(exported)) {
    const nlohmann::json mark = read_json_object(exported);
    if (!mark.contains("base_model_hash")) return std::nullopt;
    return KnownBase{mark.value("model", ""), mark.value("base_model_hash", "")};
  }
  const fs::path folder = fs::absolute(adapter).lexically_normal();
  const fs::path run = (folder.has_filename() ? folder : folder.parent_path()).parent_path() / "run.json";
  if (!fs::is_regular_file(run)) return std::nullopt;
  const nlohmann::json record = read_json_object(run);
  const auto facts = record.find("facts");
  if (facts == record.end() || !facts->is_object() || !facts->contains("model")) return std::nullopt;
  return KnownBase{record.value("base_model", ""), facts->value("model", "")};
}

void check_base(const fs::path& adapter, const BaseModel& base) {
  const std::optional<KnownBase> known = known_base_of(adapter);
  if (!known) return;
  if ((fs::path(known->path).extension() == ".gguf") != base.is_gguf) {
    tell("note: the adapter was trained on {}; whether {} is the same model can't be told\n", known->path,
         base.path.string());
    return;
  }
  if (hash_of(base) == known->hash) return;
  throw Error{Fault::data,
              {adapter.string()},
              fmt::format("was trained on another model than {}: on {}, of hash {}", base.path.string(), known->path,
                          known->hash),
              "give that model, or --other-base if this is meant"};
}

}  // namespace tune
