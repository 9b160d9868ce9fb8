#include "train/model/linear.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>

#include "checkpoints/quantize/nf4.h"
#include "recipes/schema/error.h"
#include "train/model/dtype.h"
#include "train/model/overflow.h"
#include "train/model/random_stream.h"

namespace tune {
namespace {

std::string leaf(const std::string& name) { return name.substr(name.rfind('.') + 1); }

std::string peft_key(const std::string& module, const char* factor) {
  return "base_model.model." + module + "." + factor + ".weight";
}

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
  else
    weight_ = at::empty({rows_, in_}, tensor_options(options));
}

void LinearGroup::append_slots(std::vector<WeightSlot>& slots) {
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    const LinearModule& module = modules_[i];
    if (is_quantized())
      slots.push_back(
          {.name = module.name + ".weight",
           .destination = nf4_.bytes.narrow(0, nf4_.matrices[i].first_byte, Nf4Layout(module.rows * in_).bytes),
           .nf4_shape = {module.rows, in_}});
    else
      slots.push_back(
          {.name = module.name + ".weight", .destination = weight_.narrow(0, module.first_row, module.rows)});
  }
}

void LinearGroup::add_adapter(const std::vector<std::string>& targets, const DecoderOptions& options) {
  std::int64_t adapted = 0;
  for (LinearModule& module : modules_)
    if (std::find(targets.begin(), targets.end(), leaf(module.name)) != targets.end()) module.adapter = adapted++;
  if (adapted == 0) return;
  adapted_ = adapted / experts_;
  rank_ = options.adapter.lora_r;
  scale_ = lora_scale(options.adapter);
  b_rate_scale_ = options.adapter.loraplus_lr_ratio;
  const at::TensorOptions computed = tensor_options(options), fp32 = computed.dtype(at::kFloat);
  lora_a_ = at::zeros({adapted * rank_, in_}, computed);
  lora_b_ = at::zeros({rows_, adapted_ * rank_}, computed);
  lora_a_master_ = options.dtype == Dtype::fp32 ? lora_a_ : at::zeros_like(lora_a_, fp32);
  const double bound = 1.0 / std::sqrt(static_cast<double>(in_));
  for (const LinearModule& module : modules_) {
    if (module.adapter < 0) continue;
    // a stream of its own for each module: adding a target module leaves the others' initial values alone
    auto generator = at::detail::createCPUGenerator(stream_of(module.name, options.seed));
    at::Tensor initial = at::empty({rank_, in_}, at::kFloat).uniform_(-bound, bound, generator);
    lora_a_master_.narrow(0, module.adapter * rank_, rank_).copy_(initial);
    lora_b_master_.push_back(at::zeros({module.rows, rank_}, fp32));
  }
  if (!lora_a_.is_same(lora_a_master_)) lora_a_.copy_(lora_a_master_);
  if (!options.training) return;
  lora_a_gradient_ = at::zeros_like(lora_a_master_);
  for (const at::Tensor& b : lora_b_master_) lora_b_gradient_.push_back(at::zeros_like(b));
}

void LinearGroup::train_weights(const DecoderOptions& options, bool kept) {
  if (kept) {
    weight_gradient_ = at::empty({0}, weight_.options().dtype(at::kFloat));
    return;
  }
  weight_master_ = make_master(weight_, options);
  weight_gradient_ = at::zeros(weight_.sizes(), weight_.options().dtype(at::kFloat));
}

at::Tensor LinearGroup::dropped(const at::Tensor& x, std::int64_t adapter, const DropoutKey& dropout) const {
  if (dropout.probability == 0) return x;
  const auto generator = random_stream(x.device(), dropout.seed + static_cast<std::uint64_t>(adapter));
  const double keep = 1 - dropout.probability;
  // 1 / keep as a factor of its own: rounded to bf16 inside the mask it would be off by up to 0.4 %
  return (x * at::empty_like(x).bernoulli_(keep, generator)).mul_(1 / keep);
}

// The i-th adapted module's A of all experts, one below the other.
at::Tensor LinearGroup::factor_a(std::int64_t adapter) const {
  return lora_a_.view({experts_, adapted_ * rank_, in_})
      .narrow(1, adapter * rank_, rank_)
      .reshape({experts_ * rank_, in_});
}

at::Tensor LinearGroup::forward(const at::Tensor& x, at::Tensor* down, bool adapter_on, const DropoutKey& dropout,
                                const RowGroups& groups) const {
  at::Tensor y = is_quantized() ? nf4_matmul_nt(x, nf4_, groups) : grouped_matmul_nt(x, weight_, groups);
  if (adapted_ == 0 || !adapter_on) return y;
  at::Tensor projected;
  if (dropout.probability == 0) {
    projected = grouped_matmul_nt(x, lora_a_, groups);
  } else {
    projected = at::empty({x.size(0), adapted_ * rank_}, x.options());
    for (std::int64_t i = 0; i < adapted_; ++i)
      projected.narrow(1, i * rank_, rank_).copy_(grouped_matmul_nt(dropped(x, i, dropout), factor_a(i), groups));
  }
  add_grouped_matmul_nt_(y, projected, lora_b_, scale_, groups);
  if (down != nullptr) *down = projected;
  return y;
}

at::Tensor LinearGroup::backward(const at::Tensor& d_y, const at::Tensor& x, const at::Tensor& down, bool want_d_x,
                                 const DropoutKey& dropout, const RowGroups& groups) {
  if (weight_gradient_.defined()) weight_gradient_.add_(grouped_matmul_tn(d_y, x, groups));
  at::Tensor d_x;
  if (want_d_x) d_x = is_quantized() ? nf4_matmul_nn(d_y, nf4_, groups) : grouped_matmul_nn(d_y, weight_, groups);
  if (adapted_ == 0) return d_x;

  const at::Tensor d_b = grouped_matmul_tn(d_y, down, groups);  // only its diagonal blocks belong to the adapters
  for (const LinearModule& module : modules_) {
    if (module.adapter < 0) continue;
    const at::Tensor block =
        d_b.narrow(0, module.first_row, module.rows).narrow(1, module.adapter % adapted_ * rank_, rank_);
    lora_b_gradient_[static_cast<std::size_t>(module.adapter)].add_(block, scale_);
  }
  const at::Tensor d_down = grouped_matmul_nn(d_y, lora_b_, groups).mul_(scale_);
  if (dropout.probability == 0) {
    lora_a_gradient_.add_(grouped_matmul_tn(d_down, x, groups));
    if (want_d_x) add_grouped_matmul_nn_(d_x, d_down, lora_a_, groups);
    return d_x;
  }
  for (std::int64_t i = 0; i < adapted_; ++i) {
    const at::Tensor part = d_down.narrow(1, i * rank_, rank_).contiguous();
    lora_a_gradient_.view({experts_, adapted_ * rank_, in_})
        .narrow(1, i * rank_, rank_)
        .add_(grouped_matmul_tn(part, dropped(x, i, dropout), groups).view({experts_, rank_, in_}));
    if (want_d_x) d_x.add_(dropped(grouped_matmul_nn(part, factor_a(i), groups), i, dropout));
  }
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
    const std::int64_t first = module.adapter * rank_;
    const auto index = static_cast<std::size_t>(module.adapter);
    const bool trained = lora_a_gradient_.defined();
    const at::Tensor a = lora_a_.narrow(0, first, rank_);
    parameters.push_back({.name = peft_key(module.name, "lora_A"),
                          .value = a,
                          .master = lora_a_master_.is_same(lora_a_) ? a : lora_a_master_.narrow(0, first, rank_),
                          .gradient = trained ? lora_a_gradient_.narrow(0, first, rank_) : at::Tensor()});
    parameters.push_back(
        {.name = peft_key(module.name, "lora_B"),
         .value = lora_b_.narrow(0, module.first_row, module.rows).narrow(1, module.adapter % adapted_ * rank_, rank_),
         .master = lora_b_master_[index],
         .gradient = trained ? lora_b_gradient_[index] : at::Tensor(),
         .rate_scale = b_rate_scale_});
  }
}

}  // namespace tune
