#include "checkpoints/base_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "checkpoints/gguf/model.h"
#include "checkpoints/huggingface/config.h"
#include "checkpoints/huggingface/folder.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/onnx/model.h"
#include "checkpoints/safetensors/original_layout.h"
#include "checkpoints/safetensors/pickle.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr const char* kRemedy = "give a folder in Hugging Face layout (config.json and *.safetensors) or a .gguf file";

/// The first few names in a folder, so that one sees which folder it is.
std::string listing(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  if (names.empty()) return "the folder is empty";
  std::sort(names.begin(), names.end());
  constexpr std::size_t kShown = 8;
  const std::size_t more = names.size() > kShown ? names.size() - kShown : 0;
  names.resize(names.size() - more);
  return fmt::format("it holds {}{}", fmt::join(names, ", "), more > 0 ? fmt::format(" and {} more", more) : "");
}

[[noreturn]] void refuse_folder(const fs::path& folder) {
  if (holds_original_layout(folder)) refuse_original_layout(folder);
  if (fs::exists(folder / "adapter_config.json"))
    throw Error{Fault::data,
                {folder.string()},
                "holds an adapter, not a model",
                "give its base model as the model and this folder as the adapter"};
  std::string remedy = kRemedy;
  for (const auto& entry : fs::directory_iterator(folder))
    if (fs::exists(entry.path() / "config.json") || entry.path().extension() == ".gguf")
      remedy = fmt::format("did you mean {}?", entry.path().string());
  throw Error{Fault::data, {folder.string()}, "holds no model: there is no config.json; " + listing(folder), remedy};
}

[[noreturn]] void refuse_onnx(const fs::path& path) {
  throw Error{Fault::data,
              {path.string()},
              "holds a model for onnxruntime, which can be verified, but neither tuned nor run here",
              "give the model that it was exported from"};
}

[[noreturn]] void refuse_file(const fs::path& file) {
  if (file.extension() == ".onnx") refuse_onnx(file);
  if (file.extension() == ".safetensors" || file.filename() == "config.json")
    throw Error{Fault::data, {file.string()}, "is one file of a model", "give the folder that it is in"};
  throw Error{Fault::data, {file.string()}, "is no model file", kRemedy};
}

bool is_gguf_file(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  if (looks_like_pickle(bytes)) refuse_pickle(path);
  return path.extension() == ".gguf" ||
         (bytes.size() >= 4 && std::string_view(reinterpret_cast<const char*>(bytes.data()), 4) == "GGUF");
}

}  // namespace

BaseModel open_base_model(const fs::path& path) {
  if (path.empty()) throw Error{Fault::data, {}, "no model is named", kRemedy};
  std::error_code unreadable;
  const fs::file_status status = fs::status(path, unreadable);
  if (!fs::exists(status)) throw Error{Fault::data, {path.string()}, "there is no such folder or file", kRemedy};
  BaseModel base;
  base.path = path;
  if (fs::is_directory(status)) {
    if (!fs::exists(path / "config.json")) refuse_folder(path);
    if (holds_only_onnx(path)) refuse_onnx(path);
    base.config = read_model_config(path);
    base.weights = open_huggingface_weights(path);
  } else {
    if (!is_gguf_file(path)) refuse_file(path);
    base.is_gguf = true;
    GgufFile file(path);
    base.config = read_gguf_model_config(file);
    base.weights = open_gguf_weights(std::move(file));
  }
  check_tensors(base.config, *base.weights, path.string());
  return base;
}

}  // namespace tune
