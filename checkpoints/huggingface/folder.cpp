#include "checkpoints/huggingface/folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>

#include "checkpoints/files/json.h"
#include "checkpoints/huggingface/convert.h"
#include "checkpoints/safetensors/original_layout.h"
#include "checkpoints/safetensors/pickle.h"
#include "checkpoints/safetensors/reader.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kRemedy = "the model is damaged or incomplete: copy or download it again";

/// Which shard (by file name) holds which tensors.
using ShardMap = std::map<std::string, std::vector<std::string>>;

class FolderWeights : public WeightSource {
 public:
  /// Adds the tensors `wanted` of a file, or all of them.
  void add(SafetensorsFile file, const std::optional<std::vector<std::string>>& wanted) {
    for (const TensorInfo& info : file.tensors()) {
      const auto [entry, is_new] = stored_in_.emplace(info.name, file.path().filename().string());
      if (!is_new)
        throw Error{Fault::data,
                    {file.path().string()},
                    fmt::format("tensor \"{}\" is stored in {} as well", info.name, entry->second),
                    kRemedy};
    }
    if (wanted) {
      for (const std::string& name : *wanted) add_tensor(file, name);
    } else {
      for (const TensorInfo& info : file.tensors()) add_tensor(file, info.name);
    }
    files_.push_back(std::move(file));
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }

  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override {
    const SafetensorsFile& file = file_with(name);
    convert_elements(convertible(file, name).dtype, file.bytes(name), dtype, destination);
    file.release(file.bytes(name));
  }

  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                 std::span<std::byte> destination) const override {
    const SafetensorsFile& file = file_with(name);
    const TensorInfo& info = convertible(file, name);
    TUNE_CHECK(!info.shape.empty() && first >= 0 && count >= 0 && first + count <= info.shape[0], "rows {} to {} of {}",
               first, first + count, name);
    const std::span<const std::byte> all = file.bytes(name);
    const std::size_t row_bytes = info.shape[0] == 0 ? 0 : all.size() / static_cast<std::size_t>(info.shape[0]);
    const auto part =
        all.subspan(static_cast<std::size_t>(first) * row_bytes, static_cast<std::size_t>(count) * row_bytes);
    convert_elements(info.dtype, part, dtype, destination);
    file.release(part);
  }

 private:
  const SafetensorsFile& file_with(std::string_view name) const {
    const auto found = file_of_.find(std::string(name));
    TUNE_CHECK(found != file_of_.end(), "no tensor {}", name);
    return files_[found->second];
  }

  static const TensorInfo& convertible(const SafetensorsFile& file, std::string_view name) {
    const TensorInfo& info = *file.find(name);
    if (!is_convertible(info.dtype))
      throw Error{Fault::data,
                  {file.path().string()},
                  fmt::format("tensor \"{}\" has dtype {}; F32, F16 and BF16 can be tuned", name, info.dtype),
                  "use the unquantised model"};
    return info;
  }

  void add_tensor(const SafetensorsFile& file, const std::string& name) {
    if (name.ends_with(".rotary_emb.inv_freq")) return;  // follows from rope_theta
    const TensorInfo* info = file.find(name);
    if (info == nullptr)
      throw Error{Fault::data,
                  {file.path().string()},
                  fmt::format("has no tensor \"{}\", which {} expects there", name, kIndexFile),
                  kRemedy};
    file_of_.emplace(name, files_.size());
    tensors_.push_back(*info);
  }

  std::vector<SafetensorsFile> files_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::size_t> file_of_;
  std::unordered_map<std::string, std::string> stored_in_;
};

/// A shard must be a file of this very folder: an index is a stranger's text.
bool is_plain_name(const std::string& name) {
  return name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos && name != ".." &&
         name.ends_with(".safetensors");
}

ShardMap read_index(const fs::path& path) {
  const nlohmann::json json = read_json_object(path);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty())
    throw Error{Fault::data, {path.string()}, "has no weight_map", kRemedy};
  ShardMap shards;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !is_plain_name(file.get<std::string>()))
      throw Error{Fault::data,
                  {path.string()},
                  fmt::format("tensor \"{}\" is said to be in {}; it must be the name of a .safetensors file in the "
                              "same folder",
                              tensor, file.dump()),
                  kRemedy};
    shards[file.get<std::string>()].push_back(tensor);
  }
  return shards;
}

/// A note instead of a crash for each thing that people point base_model at by mistake.
[[noreturn]] void explain_missing_weights(const fs::path& folder) {
  if (holds_original_layout(folder)) refuse_original_layout(folder);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    const std::string extension = file.extension().string();
    const bool named_so = extension == ".pt" || extension == ".pth" || extension == ".ckpt";
    if (named_so || (extension == ".bin" && looks_like_pickle(MappedFile(file).bytes()))) refuse_pickle(file);
  }
  if (fs::exists(folder / "adapter_config.json"))
    throw Error{Fault::data,
                {folder.string()},
                "holds an adapter, not a model",
                "give its base model as model.base_model and this folder as adapter.init_adapter"};
  throw Error{Fault::data,
              {folder.string()},
              fmt::format("has neither {} nor {}", kSingleFile, kIndexFile),
              "model.base_model must be a folder in Hugging Face layout or one .gguf file"};
}

std::unique_ptr<WeightSource> open_shards(const fs::path& folder, const ShardMap& shards) {
  auto weights = std::make_unique<FolderWeights>();
  for (const auto& [name, tensors] : shards) {
    if (!fs::exists(folder / name))
      throw Error{Fault::data, {(folder / name).string()}, fmt::format("is missing; {} names it", kIndexFile), kRemedy};
    weights->add(SafetensorsFile(folder / name), tensors);
  }
  return weights;
}

}  // namespace

std::unique_ptr<WeightSource> open_huggingface_weights(const fs::path& folder) {
  if (!fs::is_directory(folder))
    throw Error{Fault::data,
                {folder.string()},
                "is not a folder",
                "model.base_model must be a folder in Hugging Face layout or one .gguf file"};
  const bool has_single = fs::exists(folder / kSingleFile);
  if (fs::exists(folder / kIndexFile)) {
    const ShardMap shards = read_index(folder / kIndexFile);
    const bool complete =
        std::all_of(shards.begin(), shards.end(), [&](const auto& shard) { return fs::exists(folder / shard.first); });
    if (complete || !has_single) return open_shards(folder, shards);  // else: a stale index beside the single file
  }
  if (!has_single) explain_missing_weights(folder);
  auto weights = std::make_unique<FolderWeights>();
  weights->add(SafetensorsFile(folder / kSingleFile), std::nullopt);
  return weights;
}

}  // namespace tune
