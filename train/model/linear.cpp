#include "train/model/linear.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "checkpoints/quantize/nf4.h"
#include "recipes/schema/error.h"
#include "train/model/dtype.h"
#include "train/model/overflow.h"
#include "train/model/pissa.h"
#include "train/model/random_stream.h"

namespace tune {
namespace {

std::string leaf(const std::string& name) { return name.substr(name.rfind('.') + 1); }

}  // namespace

LinearGroup::LinearGroup(std::vector<LinearModule> modules, std::int64_t in_features, const DecoderOptions& options,
                         std::int64_t experts, bool quantizable)
    : modules_(std::move(modules)), experts_(experts), in_(in_features) {
  std::vector<std::int64_t> rows;
  for (LinearModule& module : modules_) {
    module.first_row = rows_;
    rows_ += module.rows;
    rows.push_back(module.rows);
  }
  if (options.adapter.type == AdapterType::qlora && quantizable)
    nf4_ = make_nf4_matrices(rows, in_, at::Device(options.device));
  else if (options.fp8_base && quantizable)
    fp8_ = make_fp8_matrix(rows_, in_, at::Device(options.device));
  else
    weight_ = at::empty({rows_, in_}, tensor_options(options));
}

void LinearGroup::append_slots(std::vector<WeightSlot>& slots) {
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    const LinearModule& module = modules_[i];
    WeightSlot slot{.name = module.name + ".weight"};
    if (is_in_nf4()) {
      slot.quantized_shape = {module.rows, in_};
      slot.destination = nf4_.bytes.narrow(0, nf4_.matrices[i].first_byte, Nf4Layout(module.rows * in_).bytes);
    } else if (is_in_fp8()) {
      constexpr std::int64_t kScale = sizeof(float);
      slot.quantized_shape = {module.rows, in_};
      slot.destination = fp8_.bytes.narrow(0, module.first_row * in_, module.rows * in_);
      slot.fp8_scales = fp8_.bytes.narrow(0, rows_ * in_ + module.first_row * kScale, module.rows * kScale);
    } else {
      slot.destination = weight_.narrow(0, module.first_row, module.rows);
    }
    slots.push_back(std::move(slot));
  }
}

void LinearGroup::add_adapter(const std::vector<std::string>& targets, const DecoderOptions& options) {
  std::vector<LoraModule> adapted;
  for (LinearModule& module : modules_) {
    if (std::find(targets.begin(), targets.end(), leaf(module.name)) == targets.end()) continue;
    module.adapter = std::ssize(adapted);
    adapted.push_back({.name = module.name, .first_row = module.first_row, .rows = module.rows});
  }
  if (adapted.empty()) return;
  lora_ = LoraGroup(std::move(adapted), in_, rows_, experts_, options);
  if (options.adapter.use_dora) dora_ = Dora(lora_, rows_, options);
}

// Rows of all modules' weight.
at::Tensor LinearGroup::rows_in_fp32(std::int64_t first, std::int64_t count) const {
  if (is_in_fp8()) return fp8_dequantize(fp8_, first, count);
  if (!is_in_nf4()) return weight_.narrow(0, first, count).to(at::kFloat);
  return nf4_dequantize(nf4_, {.first_row = first, .rows = count, .columns = in_}, at::kFloat);
}

void LinearGroup::start_adapter(const DecoderOptions& options) {
  if (lora_.empty()) return;
  if (!dora_.empty()) {
    constexpr std::int64_t kRows = 1024;  // at a time in fp32
    std::vector<at::Tensor> squares;
    for (std::int64_t first = 0; first < rows_; first += kRows)
      squares.push_back(rows_in_fp32(first, std::min(kRows, rows_ - first)).square().sum(1));
    dora_.start_at(at::cat(squares));
  }
  if (options.adapter.init_lora_weights != LoraInit::pissa || options.adapter_is_restored) return;
  for (std::size_t i = 0; i < lora_.modules().size(); ++i) {
    const LoraModule& module = lora_.modules()[i];
    const PrincipalFactors factors =
        principal_factors(rows_in_fp32(module.first_row, module.rows), module.rank, module.scale,
                          options.adapter.pissa_iter, stream_of(module.name, options.seed));
    lora_.start_at(i, factors.a, factors.b);
  }
}

void LinearGroup::train_weights(const DecoderOptions& options, bool kept) {
  if (kept) {
    weight_gradient_ = at::empty({0}, weight_.options().dtype(at::kFloat));
    return;
  }
  weight_master_ = make_master(weight_, options);
  weight_gradient_ = at::zeros(weight_.sizes(), weight_.options().dtype(at::kFloat));
}

at::Tensor LinearGroup::product(const at::Tensor& x, const RowGroups& groups) const {
  if (is_in_nf4()) return nf4_matmul_nt(x, nf4_, groups);
  return is_in_fp8() ? fp8_matmul_nt(x, fp8_, groups) : grouped_matmul_nt(x, weight_, groups);
}

at::Tensor LinearGroup::product_backwards(const at::Tensor& d_y, const RowGroups& groups) const {
  if (is_in_nf4()) return nf4_matmul_nn(d_y, nf4_, groups);
  return is_in_fp8() ? fp8_matmul_nn(d_y, fp8_, groups) : grouped_matmul_nn(d_y, weight_, groups);
}

at::Tensor LinearGroup::forward(const at::Tensor& x, at::Tensor* down, AdapterUse adapter, const DropoutKey& dropout,
                                const RowGroups& groups) const {
  at::Tensor y = product(x, groups);
  if (lora_.empty() || adapter == AdapterUse::off) return y;
  const at::Tensor projected = lora_.add_to_(y, x, dropout, groups);
  if (down != nullptr) *down = projected;
  if (dora_.empty()) return y;
  if (adapter == AdapterUse::on || !dora_.measured()) dora_.measure(lora_, product(lora_.a(), {}));
  dora_.scale_(y);
  return y;
}

at::Tensor LinearGroup::backward(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& down, bool want_d_x,
                                 const DropoutKey& dropout, const RowGroups& groups) {
  at::Tensor d_y = gradient;
  if (weight_gradient_.defined()) weight_gradient_.add_(grouped_matmul_tn(d_y, x, groups));
  if (!dora_.empty()) {  // its input once more: keeping it would take as much memory as all else on the tape
    at::Tensor y = product(x, groups);
    lora_.add_projected_to_(y, down, groups);
    d_y = dora_.backward(gradient, y);
  }
  at::Tensor d_x;
  if (want_d_x) d_x = product_backwards(d_y, groups);
  if (!lora_.empty()) lora_.backward(d_y, x, down, d_x, dropout, groups);
  return d_x;
}

std::string LinearGroup::first_overflow(const at::Tensor& values, const RowGroups& groups) const {
  const auto each = static_cast<std::int64_t>(modules_.size()) / experts_;
  const at::Tensor ends = groups.ends.defined() ? groups.ends.cpu() : at::tensor({values.size(0)}, at::kInt);
  const auto* end = ends.const_data_ptr<std::int32_t>();
  for (std::int64_t i = 0; i < experts_ * each; ++i) {
    const LinearModule& module = modules_[static_cast<std::size_t>(i)];
    const std::int64_t expert = i / each, first = expert == 0 ? 0 : end[expert - 1];
    std::string found = overflow_of(
        module.name,
        values.narrow(0, first, end[expert] - first).narrow(1, module.first_row % values.size(1), module.rows));
    if (!found.empty()) return found;
  }
  return "";
}

void LinearGroup::append_parameters(std::vector<Parameter>& parameters) {
  for (const LinearModule& module : modules_) {
    if (weight_gradient_.defined()) {
      const at::Tensor value = weight_.narrow(0, module.first_row, module.rows);
      const bool same = weight_master_.is_same(weight_);
      parameters.push_back({.name = module.name + ".weight",
                            .value = value,
                            .master = same ? value : weight_master_.narrow(0, module.first_row, module.rows),
                            .gradient = weight_gradient_.narrow(0, module.first_row, module.rows)});
    }
    if (module.adapter < 0) continue;
    const auto adapter = static_cast<std::size_t>(module.adapter);
    lora_.append_parameters(adapter, parameters);
    if (!dora_.empty()) dora_.append_parameter(lora_.modules()[adapter], parameters);
  }
}

}  // namespace tune
