#include "train/model/lora.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>

#include "recipes/schema/lora_shape.h"
#include "train/model/dtype.h"
#include "train/model/random_stream.h"

namespace tune {
namespace {

std::string peft_key(const std::string& module, const char* factor) {
  return "base_model.model." + module + "." + factor + ".weight";
}

}  // namespace

LoraGroup::LoraGroup(std::vector<LoraModule> modules, std::int64_t in_features, std::int64_t rows, std::int64_t experts,
                     const DecoderOptions& options)
    : modules_(std::move(modules)),
      experts_(experts),
      each_(std::ssize(modules_) / experts),
      in_(in_features),
      b_rate_scale_(options.adapter.loraplus_lr_ratio) {
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    LoraModule& module = modules_[i];
    module.rank = rank_of(options.adapter, module.name);
    module.scale = scale_of(options.adapter, module.name);
    const bool first_of_expert = static_cast<std::int64_t>(i) % each_ == 0;
    module.first = first_of_expert ? 0 : modules_[i - 1].first + modules_[i - 1].rank;
  }
  const bool pissa = options.adapter.init_lora_weights == LoraInit::pissa;
  trained_ = modules_.back().first + modules_.back().rank;
  width_ = pissa ? 2 * trained_ : trained_;
  scale_ = modules_.front().scale;
  const at::TensorOptions computed = tensor_options(options), fp32 = computed.dtype(at::kFloat);
  if (std::any_of(modules_.begin(), modules_.end(), [&](const LoraModule& each) { return each.scale != scale_; })) {
    column_scale_ = at::ones({width_}, fp32);
    for (std::int64_t i = 0; i < each_; ++i) {
      const LoraModule& module = modules_[static_cast<std::size_t>(i)];
      for (std::int64_t first = module.first; first < width_; first += trained_)
        column_scale_.narrow(0, first, module.rank).fill_(module.scale / scale_);
    }
  }
  lora_a_ = at::zeros({experts_ * width_, in_}, computed);
  lora_b_ = at::zeros({rows, width_}, computed);
  lora_a_master_ = options.dtype == Dtype::fp32 ? lora_a_ : at::zeros({experts_ * trained_, in_}, fp32);
  const double bound = 1.0 / std::sqrt(static_cast<double>(in_));
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    const LoraModule& module = modules_[i];
    // a stream of its own for each module: adding a target module leaves the others' initial values alone
    auto generator = at::detail::createCPUGenerator(stream_of(module.name, options.seed));
    const at::Tensor initial = at::empty({module.rank, in_}, at::kFloat).uniform_(-bound, bound, generator);
    master_a(i).copy_(initial);
    if (!lora_a_.is_same(lora_a_master_)) value_a(i, 0).copy_(initial);
    lora_b_master_.push_back(at::zeros({module.rows, module.rank}, fp32));
  }
  if (!options.training) return;
  lora_a_gradient_ = at::zeros({experts_ * trained_, in_}, fp32);
  for (const at::Tensor& b : lora_b_master_) lora_b_gradient_.push_back(at::zeros_like(b));
}

void LoraGroup::start_at(std::size_t i, const at::Tensor& a, const at::Tensor& b) {
  // Rounded first: what is frozen takes away exactly what is trained, until the first step.
  for (const std::int64_t first : {std::int64_t{0}, trained_}) {
    value_a(i, first).copy_(a);
    value_b(i, first).copy_(b);
  }
  master_a(i).copy_(value_a(i, 0));
  lora_b_master_[i].copy_(value_b(i, 0));
  value_b(i, trained_).neg_();
}

// Of the i-th module: its trained columns of x A^T begin behind `first` 0, the frozen ones behind trained_.
at::Tensor LoraGroup::value_a(std::size_t i, std::int64_t first) const {
  return lora_a_.narrow(0, expert_of(i) * width_ + first + modules_[i].first, modules_[i].rank);
}

at::Tensor LoraGroup::value_b(std::size_t i, std::int64_t first) const {
  const LoraModule& module = modules_[i];
  return lora_b_.narrow(0, module.first_row, module.rows).narrow(1, first + module.first, module.rank);
}

at::Tensor LoraGroup::master_a(std::size_t i) const {
  if (lora_a_.is_same(lora_a_master_)) return value_a(i, 0);
  return lora_a_master_.narrow(0, expert_of(i) * trained_ + modules_[i].first, modules_[i].rank);
}

at::Tensor LoraGroup::dropped(const at::Tensor& x, std::int64_t module, const DropoutKey& dropout) const {
  const auto generator = random_stream(x.device(), dropout.seed + static_cast<std::uint64_t>(module));
  const double keep = 1 - dropout.probability;
  // 1 / keep as a factor of its own: rounded to bf16 inside the mask it would be off by up to 0.4 %
  return (x * at::empty_like(x).bernoulli_(keep, generator)).mul_(1 / keep);
}

// Columns [first, first + count) of x A^T have these rows of A: of all experts, one below the other.
at::Tensor LoraGroup::rows_of_a(std::int64_t first, std::int64_t count) const {
  return lora_a_.view({experts_, width_, in_}).narrow(1, first, count).reshape({experts_ * count, in_});
}

at::Tensor LoraGroup::add_to_(at::Tensor& y, const at::Tensor& x, const DropoutKey& dropout,
                              const RowGroups& groups) const {
  at::Tensor down;
  if (dropout.probability == 0) {
    down = grouped_matmul_nt(x, lora_a_, groups);
  } else {
    down = at::empty({x.size(0), width_}, x.options());
    for (std::int64_t i = 0; i < each_; ++i) {
      const LoraModule& module = modules_[static_cast<std::size_t>(i)];
      down.narrow(1, module.first, module.rank)
          .copy_(grouped_matmul_nt(dropped(x, i, dropout), rows_of_a(module.first, module.rank), groups));
    }
    if (const std::int64_t frozen = width_ - trained_; frozen > 0)
      down.narrow(1, trained_, frozen).copy_(grouped_matmul_nt(x, rows_of_a(trained_, frozen), groups));
  }
  if (column_scale_.defined()) down.mul_(column_scale_);
  add_projected_to_(y, down, groups);
  return down;
}

void LoraGroup::add_projected_to_(at::Tensor& y, const at::Tensor& down, const RowGroups& groups) const {
  add_grouped_matmul_nt_(y, down, lora_b_, scale_, groups);
}

void LoraGroup::backward(const at::Tensor& d_y, const at::Tensor& x, const at::Tensor& down, at::Tensor& d_x,
                         const DropoutKey& dropout, const RowGroups& groups) {
  const auto trained = [&](const at::Tensor& columns) {
    return width_ == trained_ ? columns : columns.narrow(1, 0, trained_).contiguous();
  };
  const at::Tensor d_b = grouped_matmul_tn(d_y, trained(down), groups);  // only its diagonal blocks are adapters'
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    const LoraModule& module = modules_[i];
    lora_b_gradient_[i].add_(d_b.narrow(0, module.first_row, module.rows).narrow(1, module.first, module.rank), scale_);
  }
  at::Tensor d_down = grouped_matmul_nn(d_y, lora_b_, groups).mul_(scale_);
  if (column_scale_.defined()) d_down.mul_(column_scale_);
  if (dropout.probability == 0) {
    lora_a_gradient_.add_(grouped_matmul_tn(trained(d_down), x, groups));
    if (d_x.defined()) add_grouped_matmul_nn_(d_x, d_down, lora_a_, groups);
    return;
  }
  for (std::int64_t i = 0; i < each_; ++i) {
    const LoraModule& module = modules_[static_cast<std::size_t>(i)];
    const at::Tensor part = d_down.narrow(1, module.first, module.rank).contiguous();
    lora_a_gradient_.view({experts_, trained_, in_})
        .narrow(1, module.first, module.rank)
        .add_(grouped_matmul_tn(part, dropped(x, i, dropout), groups).view({experts_, module.rank, in_}));
    if (d_x.defined())
      d_x.add_(dropped(grouped_matmul_nn(part, rows_of_a(module.first, module.rank), groups), i, dropout));
  }
  if (const std::int64_t frozen = width_ - trained_; frozen > 0 && d_x.defined())
    add_grouped_matmul_nn_(d_x, d_down.narrow(1, trained_, frozen).contiguous(), rows_of_a(trained_, frozen), groups);
}

void LoraGroup::append_parameters(std::size_t i, std::vector<Parameter>& parameters) const {
  const LoraModule& module = modules_[i];
  const bool trained = lora_a_gradient_.defined(), frozen = width_ > trained_;
  const at::Tensor a = value_a(i, 0);
  parameters.push_back(
      {.name = peft_key(module.name, "lora_A"),
       .value = a,
       .master = lora_a_.is_same(lora_a_master_) ? a : master_a(i),
       .gradient =
           trained ? lora_a_gradient_.narrow(0, expert_of(i) * trained_ + module.first, module.rank) : at::Tensor(),
       .frozen = frozen ? value_a(i, trained_) : at::Tensor()});
  parameters.push_back({.name = peft_key(module.name, "lora_B"),
                        .value = value_b(i, 0),
                        .master = lora_b_master_[i],
                        .gradient = trained ? lora_b_gradient_[i] : at::Tensor(),
                        .rate_scale = b_rate_scale_,
                        .frozen = frozen ? value_b(i, trained_) : at::Tensor(),
                        .frozen_dimension = 1});
}

}  // namespace tune
