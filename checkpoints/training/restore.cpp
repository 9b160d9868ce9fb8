#include "checkpoints/training/restore.h"

#include <fmt/format.h>

#include "checkpoints/training/manifest.h"
#include "checkpoints/training/retention.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOptimizerFile = "optimizer.safetensors";

}  // namespace

LoadedCheckpoint::LoadedCheckpoint(const fs::path& folder, const Manifest& manifest)
    : folder_(folder), step_(manifest.step), facts_(manifest.facts), optimizer_(folder / kOptimizerFile) {
  for (const ManifestFile& file : manifest.files)
    if (file.name.ends_with(".safetensors") && file.name != kOptimizerFile) weights_.emplace_back(folder / file.name);
}

std::span<const std::byte> LoadedCheckpoint::weight(std::string_view name) const {
  for (const SafetensorsFile& file : weights_)
    if (file.find(name) != nullptr) return file.bytes(name);
  return {};
}

std::span<const std::byte> LoadedCheckpoint::optimizer(std::string_view name) const {
  return optimizer_.find(name) == nullptr ? std::span<const std::byte>() : optimizer_.bytes(name);
}

LoadedCheckpoint load_checkpoint(const fs::path& folder) {
  std::error_code unreadable;
  if (!fs::is_directory(folder, unreadable))
    throw Error{Fault::data, {folder.string()}, "is not a checkpoint folder", "give a checkpoint-<step> folder"};
  const Manifest manifest = read_manifest(folder);
  check_files(folder, manifest);
  return {folder, manifest};
}

std::optional<LoadedCheckpoint> find_newest_checkpoint(const fs::path& output_dir, std::vector<std::string>* warnings) {
  const auto checkpoints = list_checkpoints(output_dir);
  std::string newest_fault;
  for (auto entry = checkpoints.rbegin(); entry != checkpoints.rend(); ++entry) {
    try {
      LoadedCheckpoint checkpoint = load_checkpoint(entry->second);
      if (checkpoint.step() == entry->first) return checkpoint;
      throw Error{Fault::data,
                  {entry->second.string()},
                  fmt::format("holds the state of step {}", checkpoint.step()),
                  "give the folder its own name again"};
    } catch (const Error& error) {
      if (error.fault() != Fault::data) throw;
      if (newest_fault.empty()) newest_fault = error.what();
      warnings->push_back(fmt::format("{} is passed over: {}", entry->second.filename().string(), error.what()));
    }
  }
  if (checkpoints.empty()) return std::nullopt;
  throw Error{Fault::data,
              {output_dir.string()},
              fmt::format("none of its {} checkpoints is whole; the newest: {}", checkpoints.size(), newest_fault),
              "restore one from a backup, or begin anew with --resume never"};
}

}  // namespace tune
