#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "data/batch.h"
#include "train/model/decoder.h"

namespace tune {

/// Where in a batch answers are scored: rows of the hidden states that predict their tokens, and those tokens, answer
/// by answer.
struct AnswerTargets {
  std::vector<std::int64_t> rows, labels;
  std::vector<std::int64_t> counts;  // of each answer

  void add(std::span<const Target> answer);
};

/// The sum of the logarithms of each answer's tokens' probabilities, natural log. hidden [targets, hidden]: those rows
/// of the last forward pass; labels [targets] int64; counts: of each answer.
std::vector<double> log_probabilities(Decoder& decoder, const at::Tensor& hidden, const at::Tensor& labels,
                                      std::span<const std::int64_t> counts);

/// [targets, hidden]: the gradient by `hidden` of the sum over the answers of slope times log-probability. The head's
/// is added to its own, where it is trained.
at::Tensor log_probability_gradients(Decoder& decoder, const at::Tensor& hidden, const at::Tensor& labels,
                                     std::span<const std::int64_t> counts, std::span<const double> slopes);

}  // namespace tune
