#include "tools/export/upscale.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <unordered_map>

#include "checkpoints/base_model.h"
#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/files/file_system.h"
#include "checkpoints/huggingface/config.h"
#include "checkpoints/huggingface/convert.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/safetensors/header.h"
#include "checkpoints/training/manifest.h"
#include "recipes/schema/error.h"
#include "tools/export/output.h"
#include "tools/export/write_shards.h"
#include "train/stop.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kLayers = "model.layers.";
constexpr std::int64_t kMaxLayers = 10'000;  // that a config.json may have

[[noreturn]] void refuse_ranges(const std::string& what) {
  throw Error{Fault::recipe, {}, "--layers: " + what, "write ranges of layers without their ends, such as 0-24,8-32"};
}

std::int64_t layer_number(std::string_view text, std::string_view range) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || text.front() == '-' || error != std::errc{} || end != text.data() + text.size())
    refuse_ranges(fmt::format("\"{}\" is no range of layers", range));
  return number;
}

LayerRange parse_layer_range(std::string_view text) {
  const auto dash = text.find('-');
  if (dash == std::string_view::npos) refuse_ranges(fmt::format("\"{}\" is no range of layers", text));
  const LayerRange range{layer_number(text.substr(0, dash), text), layer_number(text.substr(dash + 1), text)};
  if (range.first == range.end) refuse_ranges(fmt::format("{} is empty, since its end is left out", text));
  if (range.first > range.end) refuse_ranges(fmt::format("{} runs backwards", text));
  return range;
}

std::vector<LayerRange> fitting_ranges(const std::optional<std::vector<LayerRange>>& asked, std::int64_t layers) {
  if (!asked && layers != 32) {
    const std::int64_t quarter = (layers + 2) / 4;
    throw Error{Fault::recipe,
                {},
                fmt::format("--layers is missing, and this model has {} layers, not 32", layers),
                fmt::format("as SOLAR does it: --layers 0-{},{}-{}", layers - quarter, quarter, layers)};
  }
  std::vector<LayerRange> ranges = asked.value_or(std::vector<LayerRange>{{0, 24}, {8, 32}});
  std::int64_t total = 0;
  for (const LayerRange& range : ranges) {
    if (range.end > layers)
      refuse_ranges(fmt::format("{}-{} goes beyond the model, which has {} layers", range.first, range.end, layers));
    total += range.end - range.first;
  }
  if (total > kMaxLayers) refuse_ranges(fmt::format("{} layers are more than {}", total, kMaxLayers));
  return ranges;
}

/// The tensors of the base under the names that they have in the deeper model.
class UpscaledWeights : public WeightSource {
 public:
  UpscaledWeights(const BaseModel& base, const ModelConfig& config, const std::vector<LayerRange>& ranges)
      : base_(*base.weights) {
    std::vector<std::int64_t> layers;
    for (const LayerRange& range : ranges)
      for (std::int64_t layer = range.first; layer < range.end; ++layer) layers.push_back(layer);
    std::unordered_map<std::string_view, const TensorInfo*> stored;
    for (const TensorInfo& tensor : base_.tensors()) stored.emplace(tensor.name, &tensor);
    for (TensorInfo& tensor : expected_tensors(config)) {
      const std::string name = name_in_base(tensor.name, layers);
      tensor.dtype = stored.at(name)->dtype;
      if (!is_convertible(tensor.dtype))
        throw Error{Fault::data,
                    {base.path.string()},
                    fmt::format("tensor \"{}\" has dtype {}; F32, F16 and BF16 can be tuned", name, tensor.dtype),
                    "use the unquantised model"};
      names_.emplace(tensor.name, name);
      tensors_.push_back(std::move(tensor));
    }
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }

  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override {
    base_.read(names_.at(std::string(name)), dtype, destination);
  }

  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                 std::span<std::byte> destination) const override {
    if (stop_requested() != 0)
      throw Error{Fault::running, {}, "stopped, nothing was written", "give the command again"};
    base_.read_rows(names_.at(std::string(name)), first, count, dtype, destination);
  }

 private:
  // "model.layers.40.mlp.up_proj.weight" -> that of the layer that 40 is a copy of
  static std::string name_in_base(const std::string& name, const std::vector<std::int64_t>& layers) {
    if (!name.starts_with(kLayers)) return name;
    const auto dot = name.find('.', kLayers.size());
    const auto layer = static_cast<std::size_t>(std::stoll(name.substr(kLayers.size(), dot - kLayers.size())));
    return fmt::format("{}{}{}", kLayers, layers[layer], name.substr(dot));
  }

  const WeightSource& base_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::string> names_;  // -> in the base
};

bool is_weights_file(const fs::path& file) {
  const std::string name = file.filename().string();
  for (const char* ending : {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx",
                             ".onnx_data", ".index.json"})
    if (name.ends_with(ending)) return true;
  return name == kManifestFile;  // checksums of these
}

void copy_other_files(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || name.starts_with('.') || name == "config.json" || is_weights_file(name)) continue;
    duplicate_file(entry.path(), to / name);
  }
}

void check_output(const fs::path& model, const fs::path& output) {
  const auto refuse = [&](const std::string& what) {
    throw Error{Fault::recipe, {output.string()}, what, "give another --output"};
  };
  if (output.empty()) throw Error{Fault::recipe, {}, "the output has no name", "give --output DIR"};
  if (fs::exists(model) && is_or_holds(model, output)) refuse("is, or lies in, the model that is copied");
  std::error_code error;
  const fs::path name = output.has_filename() ? output : output.parent_path();  // "x/" as "x"
  if (fs::exists(fs::symlink_status(name, error))) refuse("is there already, and nothing is overwritten");
}

}  // namespace

std::vector<LayerRange> parse_layer_ranges(const std::string& text) {
  std::vector<LayerRange> ranges;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    ranges.push_back(parse_layer_range(std::string_view(text).substr(begin, end - begin)));
    begin = end + 1;
  }
  return ranges;
}

Upscaled upscale(const fs::path& model, const std::optional<std::vector<LayerRange>>& asked, const fs::path& output) {
  check_output(model, output);
  const BaseModel base = open_base_model(model);
  if (base.is_gguf)
    throw Error{Fault::data,
                {model.string()},
                "is a GGUF file; up-scaling copies a folder in Hugging Face layout",
                fmt::format("make one of it first: tune export --format hf --model {} --output DIR", model.string())};
  ModelConfig config = base.config;
  const std::vector<LayerRange> ranges = fitting_ranges(asked, config.num_hidden_layers);
  check_tensors(config, *base.weights, model.string());
  config.num_hidden_layers = 0;
  for (const LayerRange& range : ranges) config.num_hidden_layers += range.end - range.first;

  const UpscaledWeights weights(base, config, ranges);
  Upscaled result{.num_hidden_layers = config.num_hidden_layers};
  for (const TensorInfo& tensor : weights.tensors()) {
    result.parameters += element_count(tensor);
    result.bytes += byte_size(tensor);
  }
  AtomicFolder folder(output);
  copy_other_files(model, folder.path());
  write_atomically(folder.path() / "config.json",
                   patch_num_hidden_layers(read_text(model / "config.json"), config.num_hidden_layers));
  write_shards(weights, weights.tensors(), folder.path());
  folder.commit();
  return result;
}

}  // namespace tune
