#include "checkpoints/peft/adapter_folder.h"

#include <fmt/format.h>

#include "checkpoints/files/file_system.h"
#include "checkpoints/huggingface/convert.h"
#include "checkpoints/safetensors/named_bytes.h"
#include "checkpoints/safetensors/pickle.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

std::filesystem::path weights_file(const std::filesystem::path& folder) {
  const std::filesystem::path pickle = folder / "adapter_model.bin";
  if (!std::filesystem::exists(folder / kAdapterWeightsFile) && std::filesystem::exists(pickle))
    throw Error{Fault::data,
                {pickle.string()},
                "is a Python pickle, which can run programs when it is opened; only safetensors are read",
                "load the adapter with PEFT once and call save_pretrained() on it"};
  return folder / kAdapterWeightsFile;
}

}  // namespace

AdapterFolder::AdapterFolder(const std::filesystem::path& folder)
    : config_(read_adapter_config(folder)), file_(weights_file(folder)) {}

void AdapterFolder::read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const {
  read_rows(name, 0, file_.find(name)->shape.front(), dtype, destination);
}

void AdapterFolder::read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                              std::span<std::byte> destination) const {
  const TensorInfo& info = *file_.find(name);
  const std::span<const std::byte> all = file_.bytes(name);
  const std::size_t row = all.size() / static_cast<std::size_t>(info.shape.front());
  const auto bytes = all.subspan(static_cast<std::size_t>(first) * row, static_cast<std::size_t>(count) * row);
  if (!is_convertible(info.dtype))
    throw Error{Fault::data,
                {file_.path().string()},
                fmt::format("tensor \"{}\" has dtype {}; it must be F32, F16 or BF16", name, info.dtype),
                "save the adapter again in one of these"};
  convert_elements(info.dtype, bytes, dtype, destination);
}

std::filesystem::path adapter_folder(const std::filesystem::path& path) {
  std::error_code unreadable;
  if (!std::filesystem::is_regular_file(path, unreadable)) return path;
  if (path.filename() != kAdapterWeightsFile)
    throw Error{Fault::data,
                {path.string()},
                "is no adapter that can be read",
                fmt::format("give a PEFT folder, or the {} in it", kAdapterWeightsFile)};
  return path.has_parent_path() ? path.parent_path() : ".";
}

void write_adapter(const std::filesystem::path& folder, const AdapterConfig& config,
                   std::span<const NamedBytes> tensors) {
  write_safetensors(folder / kAdapterWeightsFile, tensors);
  OutputFile file(folder / kAdapterConfigFile);
  file.write(write_adapter_config(config));
  file.close();
}

}  // namespace tune
