#include "checkpoints/onnx/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "checkpoints/huggingface/convert.h"
#include "checkpoints/onnx/adapter.h"
#include "checkpoints/onnx/stored_weight.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::string_view kWeight = ".weight", kFactorA = ".lora_A.weight", kFactorB = ".lora_B.weight";

/// What an adapter adds to the rows of a matrix: A [in, rank] and B [rank, out], the scale in B.
class Factors {
 public:
  Factors(const OnnxStoredTensor& a, const OnnxStoredTensor& b)
      : rank_(a.dims[1]),
        rows_(b.dims[1]),
        a_(turned(values_of(a), static_cast<std::size_t>(rank_))),
        b_(values_of(b)) {}

  void add_to(std::int64_t first, std::int64_t count, std::span<float> rows) const {
    const std::size_t columns = rows.size() / static_cast<std::size_t>(count);
    for (std::int64_t row = 0; row < count; ++row) {
      const auto to = rows.subspan(static_cast<std::size_t>(row) * columns, columns);
      for (std::int64_t k = 0; k < rank_; ++k) {
        const float factor = b_[static_cast<std::size_t>(k * rows_ + first + row)];
        const float* from = a_.data() + static_cast<std::size_t>(k) * columns;
        for (std::size_t i = 0; i < columns; ++i) to[i] += factor * from[i];
      }
    }
  }

 private:
  static std::vector<float> values_of(const OnnxStoredTensor& tensor) {
    const bool is_half = tensor.type == OnnxType::float16;
    std::vector<float> values(tensor.bytes.size() / (is_half ? 2 : 4));
    convert_elements(is_half ? "F16" : "F32", tensor.bytes, Dtype::fp32, std::as_writable_bytes(std::span(values)));
    return values;
  }

  /// [rows, columns] -> [columns, rows].
  static std::vector<float> turned(const std::vector<float>& values, std::size_t columns) {
    std::vector<float> result(values.size());
    const std::size_t rows = values.size() / columns;
    for (std::size_t i = 0; i < values.size(); ++i) result[i % columns * rows + i / columns] = values[i];
    return result;
  }

  std::int64_t rank_, rows_;
  std::vector<float> a_, b_;  // A [rank, in], B [rank, out]
};

class OnnxDecoderWeights : public WeightSource {
 public:
  OnnxDecoderWeights(OnnxFile file, std::optional<OnnxAdapterFile> adapter)
      : file_(std::move(file)), adapter_(std::move(adapter)) {
    const OnnxWeightFinder finder(file_);
    for (const OnnxStoredTensor& tensor : file_.tensors()) {
      const auto weight = finder.weight_in(tensor);
      if (!weight) continue;
      if (!stored_.emplace(tensor.name, *weight).second) refuse(fmt::format("has {} twice", tensor.name));
      infos_.push_back({tensor.name, onnx_type_name(tensor.type), weight->shape});
    }
    match_adapter();
  }

  const std::vector<TensorInfo>& tensors() const override { return infos_; }

  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override {
    const OnnxStoredWeight& weight = stored(name);
    read_rows(name, 0, weight.shape[0], dtype, destination);
    file_.release(weight.values);
  }

  void read_rows(std::string_view name, std::int64_t from, std::int64_t wanted, Dtype dtype,
                 std::span<std::byte> destination) const override {
    const OnnxStoredWeight& weight = stored(name);
    file_.check_unchanged();
    const std::optional<Factors> factors = factors_of(weight.name);
    const std::int64_t columns = weight.shape.size() == 2 ? weight.shape[1] : 1;
    const std::size_t row_bytes = static_cast<std::size_t>(columns) * element_bytes(dtype);
    TUNE_CHECK(from >= 0 && wanted >= 0 && from + wanted <= weight.shape[0], "rows {} to {} of {}", from, from + wanted,
               name);
    TUNE_CHECK(destination.size() == static_cast<std::size_t>(wanted) * row_bytes, "{} bytes for {}",
               destination.size(), name);
    std::vector<float> rows;
    for (std::int64_t first = 0; first < wanted; first += kRows) {
      const std::int64_t count = std::min(kRows, wanted - first);
      rows.resize(static_cast<std::size_t>(count * columns));
      read_weight_rows(weight, from + first, count, rows);
      if (factors) factors->add_to(from + first, count, rows);
      convert_elements("F32", std::as_bytes(std::span(rows)), dtype,
                       destination.subspan(static_cast<std::size_t>(first) * row_bytes,
                                           static_cast<std::size_t>(count) * row_bytes));
    }
  }

 private:
  const OnnxStoredWeight& stored(std::string_view name) const {
    const auto found = stored_.find(std::string(name));
    TUNE_CHECK(found != stored_.end(), "no tensor {} in {}", name, file_.path().string());
    return found->second;
  }

  static constexpr std::int64_t kRows = 64;  // at once: what lies turned is read a few cache lines a column

  struct Pair {
    const OnnxStoredTensor *a = nullptr, *b = nullptr;
  };

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error{Fault::data, {(adapter_ ? adapter_->path() : file_.path()).string()}, what, "export it again"};
  }

  /// Graph and adapter must name the same inputs.
  void match_adapter() {
    std::size_t inputs = 0;
    for (const OnnxValue& input : file_.inputs())
      if (input.name.ends_with(kFactorA) || input.name.ends_with(kFactorB)) ++inputs;
    if (inputs == 0 && !adapter_) return;
    if (!adapter_) refuse(fmt::format("takes an adapter's factors, and there is no {} beside it", kOnnxAdapterFile));
    for (const OnnxStoredTensor& parameter : adapter_->parameters()) {
      const auto& all = file_.inputs();
      if (std::none_of(all.begin(), all.end(), [&](const OnnxValue& input) { return input.name == parameter.name; }))
        refuse(fmt::format("has {}, which {} doesn't take", parameter.name, kOnnxModelFile));
      const bool is_a = parameter.name.ends_with(kFactorA);
      const std::string module = parameter.name.substr(0, parameter.name.size() - kFactorA.size());
      Pair& pair = pairs_[fmt::format("{}{}", module, kWeight)];
      (is_a ? pair.a : pair.b) = &parameter;
    }
    for (const auto& [name, pair] : pairs_) check_pair(name, pair);
    if (inputs != 2 * pairs_.size())
      refuse(fmt::format("has {} factors, {} takes {}", 2 * pairs_.size(), kOnnxModelFile, inputs));
  }

  void check_pair(const std::string& name, const Pair& pair) const {
    const auto found = stored_.find(name);
    const auto is_factor = [](const OnnxStoredTensor* tensor) {
      return tensor != nullptr && tensor->dims.size() == 2 &&
             (tensor->type == OnnxType::float32 || tensor->type == OnnxType::float16);
    };
    if (!is_factor(pair.a) || !is_factor(pair.b) || found == stored_.end() || found->second.shape.size() != 2 ||
        pair.a->dims[1] < 1 || pair.a->dims[1] != pair.b->dims[0] || pair.a->dims[0] != found->second.shape[1] ||
        pair.b->dims[1] != found->second.shape[0])
      refuse(fmt::format("has no pair of factors that fits {}", name));
  }

  std::optional<Factors> factors_of(const std::string& name) const {
    const auto found = pairs_.find(name);
    if (found == pairs_.end()) return std::nullopt;
    adapter_->check_unchanged();
    return Factors(*found->second.a, *found->second.b);
  }

  OnnxFile file_;
  std::optional<OnnxAdapterFile> adapter_;
  std::vector<TensorInfo> infos_;
  std::unordered_map<std::string, OnnxStoredWeight> stored_;
  std::map<std::string, Pair> pairs_;  // by the name of the weight that they change
};

}  // namespace

std::unique_ptr<WeightSource> open_onnx_weights(OnnxFile file, std::optional<OnnxAdapterFile> adapter) {
  return std::make_unique<OnnxDecoderWeights>(std::move(file), std::move(adapter));
}

}  // namespace tune
