#include "train/parallel/gradient_sum.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "train/plan/memory.h"

namespace tune {
namespace {

// f(part of the bucket, gradient) for each gradient that lies in it.
template <typename Bucket, typename F>
void for_parts(const Bucket& bucket, F&& f) {
  std::int64_t at = 0;
  for (const at::Tensor& gradient : bucket.gradients) {
    f(bucket.values.narrow(0, at, gradient.numel()).view_as(gradient), gradient);
    at += gradient.numel();
  }
}

}  // namespace

GradientSum::GradientSum(World& world, std::vector<Parameter>& parameters, std::int64_t bucket_bytes) : world_(world) {
  if (world.alone()) return;
  std::vector<at::Tensor> open;
  std::int64_t held = 0;  // values
  const auto close = [&](std::size_t first) {
    if (open.empty()) return;
    buckets_.push_back({first, at::empty({held}, open.front().options()), std::move(open)});
    open.clear();
    held = 0;
  };
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const at::Tensor& gradient = parameters[i].gradient;
    if (gradient.nbytes() >= static_cast<std::size_t>(kLargeGradientBytes) && gradient.is_contiguous()) {
      close(i + 1);
      buckets_.push_back({i, gradient});
      continue;
    }
    open.push_back(gradient);
    held += gradient.numel();
    if (held * std::int64_t{sizeof(float)} >= bucket_bytes) close(i);
  }
  close(0);
}

void GradientSum::ready_from(std::size_t first) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  while (pending_.size() < buckets_.size() && buckets_[pending_.size()].first >= first) {
    const Bucket& bucket = buckets_[pending_.size()];
    for_parts(bucket, [](const at::Tensor& part, const at::Tensor& gradient) { part.copy_(gradient); });
    pending_.push_back(world_.begin_sum(bucket.values));
  }
}

void GradientSum::finish() {
  ready_from(0);
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    pending_[i].wait();
    for_parts(buckets_[i], [](const at::Tensor& part, const at::Tensor& gradient) { gradient.copy_(part); });
  }
  pending_.clear();
}

}  // namespace tune
