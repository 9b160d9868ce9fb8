#include "checkpoints/training/restore.h"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoints/safetensors/header.h"
#include "checkpoints/training/manifest.h"
#include "checkpoints/training/retention.h"
#include "checkpoints/training/slice_name.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

LoadedCheckpoint::LoadedCheckpoint(const fs::path& folder, const Manifest& manifest)
    : folder_(folder), step_(manifest.step), facts_(manifest.facts) {
  for (const ManifestFile& file : manifest.files)
    if (file.name.ends_with(".safetensors")) files_.emplace_back(folder / file.name);
  for (const SafetensorsFile& file : files_) {
    for (const TensorInfo& info : file.tensors()) {
      const SliceName name = parse_slice_name(info.name);
      const std::uint64_t element = element_bytes(info.dtype);
      slices_[name.tensor].push_back(
          {static_cast<std::uint64_t>(name.first.value_or(0)) * element, element, file.bytes(info.name)});
    }
  }
  for (auto& [tensor, slices] : slices_)
    std::sort(slices.begin(), slices.end(), [](const Slice& a, const Slice& b) { return a.first < b.first; });
}

std::uint64_t LoadedCheckpoint::bytes(std::string_view tensor) const {
  const auto found = slices_.find(tensor);
  return found == slices_.end() ? 0 : found->second.back().first + found->second.back().bytes.size();
}

void LoadedCheckpoint::read(std::string_view name, std::span<std::byte> destination) const {
  const SliceName wanted = parse_slice_name(name);
  const auto found = slices_.find(wanted.tensor);
  const std::uint64_t element = found == slices_.end() ? 1 : found->second.front().element,
                      begin = static_cast<std::uint64_t>(wanted.first.value_or(0)) * element,
                      end = begin + destination.size(), whole = bytes(wanted.tensor);
  std::uint64_t at = begin;
  if (found != slices_.end()) {
    for (const Slice& slice : found->second) {
      if (at == end || slice.first > at) break;
      if (slice.first + slice.bytes.size() <= at) continue;
      const std::span<const std::byte> rest = slice.bytes.subspan(at - slice.first);
      const std::size_t count = std::min<std::uint64_t>(rest.size(), end - at);
      std::copy_n(rest.begin(), count, destination.begin() + static_cast<std::ptrdiff_t>(at - begin));
      at += count;
    }
  }
  if (at != end || (!wanted.first && whole != end))
    throw Error{
        Fault::data,
        {folder_.string()},
        fmt::format("has {} bytes of {}; {} are expected", wanted.first ? at - begin : whole, name, destination.size()),
        "it belongs to another run: use another output_dir, or --resume never"};
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
