#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "recipes/schema/recipe.h"
#include "tools/export/export.h"
#include "tools/verbs/row_error.h"

namespace tune {

struct LogitDifference {
  double max = 0, mean = 0;
};

/// How a model that was written answers beside the one that was trained, to the same texts.
struct Comparison {
  std::int64_t tokens = 0;
  LogitDifference logits;
  double kl = 0;  // of the written model's next token from the trained one's, mean over tokens, nats
  double trained_perplexity = 0, written_perplexity = 0;
  /// Where an adapter of qlora was merged into the original base: how far that is from what was trained.
  std::optional<LogitDifference> of_other_base;
  std::optional<RowError> largest_row_error;  // of the weights; not looked at where an adapter was written
};

/// What rounding to an export's numbers may cause; beyond it, something else is wrong. Several times what models of 100
/// million weights show, who suffer more than large ones.
struct Tolerances {
  double kl = 0;   // mean Kullback-Leibler divergence, nats a token
  double row = 0;  // greatest difference of a row of weights, of its length; not looked at for adapters
};
Tolerances tolerances_of(const ExportOptions& options);

/// What the trained model says, kept, so that several exports can be held against it.
class Verifier {
 public:
  /// Loads the model of `trained` (its base model with the adapter that it starts from; source.weights in place of the
  /// base's) and computes its answers to a few fixed texts and to the first of `held_out`, which may be nullptr.
  Verifier(const Recipe& trained, const ExportSource& source, const TokenDataset* held_out);

  /// Opens what an export wrote with our own reader, and computes the same with our own decoder, of ONNX, too.
  /// Error{Fault::verification} for a model of another vocabulary, Error{Fault::data} for what can't be read.
  Comparison compare(const ExportOptions& options, const std::filesystem::path& written) const;

 private:
  std::vector<at::Tensor> answers_of(const Recipe& recipe, const ModelConfig& config,
                                     const WeightSource& weights) const;
  std::vector<at::Tensor> answers_on_original_base() const;
  RowError row_error_of(const BaseModel& written, bool merged_into_nf4) const;

  Recipe trained_;
  std::optional<std::filesystem::path> replaced_;  // folder whose weights were trained, in place of the base's
  std::int64_t vocab_size_ = 0;
  std::vector<std::vector<std::int32_t>> texts_;
  std::vector<at::Tensor> answers_;  // of each text, logits [tokens, vocab] fp32
};

/// The rows that the run evaluates on; nullptr, and a note, where they can't be read.
std::unique_ptr<TokenDataset> held_out_rows(const Recipe& recipe);

/// The comparison on stderr. Error{Fault::verification} when it goes beyond the tolerance, or isn't a number.
void tell_comparison(const ExportOptions& options, const std::filesystem::path& written, const Comparison& comparison);

/// Has `verify` look at what an export wrote. What fails with Fault::verification loses its name (set_aside): it
/// is told what it is called now, before the error is thrown on.
void keep_if_verified(const std::filesystem::path& written, const std::function<void()>& verify);

/// The three in one, with the rows that the run evaluates on.
void verify_export(const ExportOptions& options, const ExportSource& source, const std::filesystem::path& written);

}  // namespace tune
