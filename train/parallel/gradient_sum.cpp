#include "train/parallel/gradient_sum.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "train/plan/memory.h"

namespace tune {
namespace {

bool is_the_gradient(const std::vector<at::Tensor>& gradients, const at::Tensor& values) {
  return gradients.size() == 1 && gradients.front().is_same(values);
}

}  // namespace

GradientSum::GradientSum(World& world, std::vector<Parameter>& parameters, std::int64_t bucket_bytes) : world_(world) {
  if (world.alone()) return;
  Bucket open;
  std::size_t held = 0;
  const auto close = [&](std::size_t first) {
    if (open.gradients.empty()) return;
    open.first = first;
    open.values = at::empty({static_cast<std::int64_t>(held / sizeof(float))}, open.gradients.front().options());
    buckets_.push_back(std::move(open));
    open = {};
    held = 0;
  };
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const at::Tensor& gradient = parameters[i].gradient;
    if (gradient.nbytes() >= static_cast<std::size_t>(kLargeGradientBytes) && gradient.is_contiguous()) {
      close(i + 1);
      buckets_.push_back({.first = i, .gradients = {gradient}, .values = gradient});
      continue;
    }
    open.gradients.push_back(gradient);
    held += gradient.nbytes();
    if (held >= static_cast<std::size_t>(bucket_bytes)) close(i);
  }
  close(0);
}

std::int64_t GradientSum::bytes() const {
  std::int64_t sum = 0;
  for (const Bucket& bucket : buckets_)
    if (!is_the_gradient(bucket.gradients, bucket.values)) sum += static_cast<std::int64_t>(bucket.values.nbytes());
  return sum;
}

void GradientSum::begin() { pending_.clear(); }

void GradientSum::ready_from(std::size_t first) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  while (pending_.size() < buckets_.size() && buckets_[pending_.size()].first >= first) {
    const Bucket& bucket = buckets_[pending_.size()];
    if (!is_the_gradient(bucket.gradients, bucket.values)) {
      std::int64_t at = 0;
      for (const at::Tensor& gradient : bucket.gradients) {
        bucket.values.narrow(0, at, gradient.numel()).view_as(gradient).copy_(gradient);
        at += gradient.numel();
      }
    }
    pending_.push_back(world_.begin_sum(bucket.values));
  }
}

void GradientSum::finish() {
  ready_from(0);
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    pending_[i].wait();
    const Bucket& bucket = buckets_[i];
    if (is_the_gradient(bucket.gradients, bucket.values)) continue;
    std::int64_t at = 0;
    for (const at::Tensor& gradient : bucket.gradients) {
      gradient.copy_(bucket.values.narrow(0, at, gradient.numel()).view_as(gradient));
      at += gradient.numel();
    }
  }
}

}  // namespace tune
