#include "train/objectives/answers.h"

#include <ATen/ATen.h>

#include "train/kernels/cross_entropy.h"

namespace tune {

void AnswerTargets::add(std::span<const Target> answer) {
  for (const Target& target : answer) {
    rows.push_back(target.row);
    labels.push_back(target.label);
  }
  counts.push_back(std::ssize(answer));
}

std::vector<double> log_probabilities(Decoder& decoder, const at::Tensor& hidden, const at::Tensor& labels,
                                      std::span<const std::int64_t> counts) {
  const CrossEntropyResult result =
      linear_cross_entropy(hidden, decoder.head_weight(), labels, 1.0, /*want_gradient=*/false, at::Tensor());
  const at::Tensor losses = result.losses.to(at::kDouble).cpu();
  std::vector<double> sums;
  std::int64_t first = 0;
  for (const std::int64_t count : counts) {
    sums.push_back(-losses.narrow(0, first, count).sum().item<double>());
    first += count;
  }
  return sums;
}

// Logits once more: the slopes are known only now. The gradient of a log-probability is that of minus the loss.
at::Tensor log_probability_gradients(Decoder& decoder, const at::Tensor& hidden, const at::Tensor& labels,
                                     std::span<const std::int64_t> counts, std::span<const double> slopes) {
  at::Tensor d_hidden = at::empty_like(hidden);
  std::int64_t first = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const CrossEntropyResult result = linear_cross_entropy(hidden.narrow(0, first, counts[i]), decoder.head_weight(),
                                                           labels.narrow(0, first, counts[i]), -slopes[i],
                                                           /*want_gradient=*/true, decoder.head_gradient());
    d_hidden.narrow(0, first, counts[i]).copy_(result.d_hidden);
    first += counts[i];
  }
  return d_hidden;
}

}  // namespace tune
