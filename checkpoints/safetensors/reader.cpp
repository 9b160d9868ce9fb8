#include "checkpoints/safetensors/reader.h"

#include <fmt/format.h>

#include <utility>

#include "checkpoints/safetensors/header.h"
#include "checkpoints/safetensors/pickle.h"
#include "recipes/schema/error.h"

namespace tune {

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::span<const std::byte> bytes = file_.bytes();
  if (looks_like_pickle(bytes)) refuse_pickle(path);
  SafetensorsHeader header = parse_safetensors_header(bytes, path.string());
  metadata_ = std::move(header.metadata);
  for (SafetensorsEntry& entry : header.entries) {
    index_.emplace(entry.info.name, tensors_.size());
    spans_.push_back(bytes.subspan(entry.begin, entry.end - entry.begin));
    tensors_.push_back(std::move(entry.info));
  }
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  if (found == index_.end())
    throw Error{Fault::data,
                {path().string()},
                fmt::format("has no tensor \"{}\"", name),
                "the file is damaged or belongs to another model: copy it again"};
  file_.check_unchanged();
  return spans_[found->second];
}

}  // namespace tune
