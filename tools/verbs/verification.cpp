#include "tools/verbs/verification.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>

#include "checkpoints/base_model.h"
#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/huggingface/folder.h"
#include "checkpoints/onnx/model.h"
#include "checkpoints/quantize/nf4_weights.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "tools/export/import_gguf_lora.h"
#include "tools/export/merge.h"
#include "tools/export/output.h"
#include "tools/verbs/recipe_argument.h"
#include "tools/verbs/source_argument.h"
#include "train/inputs.h"
#include "train/objectives/supervised.h"

namespace tune {

namespace {

constexpr std::array kTexts = {
    "The order was sent on Monday, but the parcel has not arrived. Could you please tell me where it is now?",
    "def mean(numbers):\n    total = 0\n    for number in numbers:\n        total += number\n    return total / "
    "len(numbers)\n",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 1000",
    "Où est la bibliothèque? Die Bibliothek ist geöffnet. 图书馆在哪里？ Библиотека открыта.",
};
constexpr std::size_t kTextTokens = 128, kHeldOutTokens = 512;  // of one text, of all held-out rows

LogitDifference difference_of(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  LogitDifference result;
  double sum = 0, count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const at::Tensor difference = (a[i] - b[i]).abs();
    result.max = std::max(result.max, difference.max().item<double>());
    sum += difference.sum(at::kDouble).item<double>();
    count += static_cast<double>(difference.numel());
  }
  result.mean = sum / count;
  return result;
}

/// Sum of the negative log-likelihoods of the text's own tokens, but for the first.
double surprise(const at::Tensor& log_probabilities, const std::vector<std::int32_t>& ids) {
  const at::Tensor next = at::tensor(std::vector<std::int64_t>(ids.begin() + 1, ids.end())).unsqueeze(1);
  const auto tokens = static_cast<std::int64_t>(ids.size());
  return -log_probabilities.slice(0, 0, tokens - 1).gather(1, next).sum().item<double>();
}

}  // namespace

// Rows: typical ones show a fifth of it. What bounds it is one large number that others share a scale with: they may
// round to nothing, but are short beside it.
Tolerances tolerances_of(const ExportOptions& options) {
  if (is_adapter(options.format)) return {.kl = 1e-3};
  // bf16 rounds merged products otherwise, and a close call may send a token to another expert
  constexpr double kAsComputed = 0.02;
  switch (options.quant.value_or(kDefaultQuant)) {
    case Quant::f32:
      return {.kl = kAsComputed, .row = 1e-5};
    case Quant::f16:
    case Quant::bf16:
      return {.kl = kAsComputed, .row = 0.01};
    case Quant::q8_0:
      return {.kl = 0.05, .row = 0.05};
    case Quant::q6_k:
      return {.kl = 0.05, .row = 0.1};
    case Quant::int8:  // maybe one scale a row
      return {.kl = 0.05, .row = 0.25};
    case Quant::q5_k_m:
    case Quant::q5_0:
      return {.kl = 0.15, .row = 0.3};
    case Quant::q4_k_m:
    case Quant::q4_0:
    case Quant::int4:
      return {.kl = 0.5, .row = 0.5};
  }
  return {};
}

Verifier::Verifier(const Recipe& trained, const ExportSource& source, const TokenDataset* held_out)
    : trained_(trained), replaced_(source.weights) {
  // GGUF has no sliding window, which the export tells: within the window there is no difference.
  const BaseModel base = open_base_model(trained.model.base_model);
  const std::int64_t window = base.config.sliding_window;
  const std::size_t most = window > 0 ? std::min(kTextTokens, static_cast<std::size_t>(window)) : kTextTokens;
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(trained.model.base_model);
  for (const char* text : kTexts) {
    std::vector<std::int32_t> ids = tokenizer->encode(text).ids;
    if (tokenizer->add_bos && tokenizer->bos_id) ids.insert(ids.begin(), *tokenizer->bos_id);
    ids.resize(std::min(ids.size(), most));
    texts_.push_back(std::move(ids));
  }
  std::size_t left = kHeldOutTokens;
  for (std::int64_t i = 0; held_out != nullptr && i < held_out->size() && left > 1; ++i) {
    const RowView row = held_out->row(i);
    const auto ids = row.ids.first(std::min({row.ids.size(), most, left}));
    left -= ids.size();
    if (ids.size() > 1) texts_.emplace_back(ids.begin(), ids.end());
  }
  std::unique_ptr<WeightSource> replaced;
  if (source.weights) replaced = open_huggingface_weights(*source.weights);
  vocab_size_ = base.config.vocab_size;
  answers_ = answers_of(trained, base.config, replaced ? *replaced : *base.weights);
}

std::vector<at::Tensor> Verifier::answers_of(const Recipe& recipe, const ModelConfig& config,
                                             const WeightSource& weights) const {
  Decoder decoder(config, weights, decoder_options(recipe, config, false));
  decoder.no_dropout();
  std::vector<at::Tensor> answers;
  for (const std::vector<std::int32_t>& ids : texts_) {
    std::vector<std::int64_t> rows(ids.size());
    std::iota(rows.begin(), rows.end(), 0);
    answers.push_back(logits(decoder, one_document(ids), rows).cpu());
  }
  return answers;
}

std::vector<at::Tensor> Verifier::answers_on_original_base() const {
  Recipe recipe = trained_;
  recipe.adapter.type = AdapterType::lora;
  const BaseModel base = open_base_model(recipe.model.base_model);
  return answers_of(recipe, base.config, *base.weights);
}

RowError Verifier::row_error_of(const BaseModel& written, bool merged_into_nf4) const {
  const BaseModel base = open_base_model(trained_.model.base_model);
  std::unique_ptr<WeightSource> replaced;
  if (replaced_) replaced = open_huggingface_weights(*replaced_);
  std::optional<AdapterFolder> adapter;
  std::optional<Nf4Weights> quantized;
  std::optional<MergedWeights> merged;
  if (has_adapter(trained_.adapter)) {
    adapter.emplace(trained_.adapter.init_adapter);
    if (merged_into_nf4) quantized.emplace(*base.weights);
    merged.emplace(quantized ? static_cast<const WeightSource&>(*quantized) : *base.weights, *adapter,
                   trained_.adapter.init_adapter);
  }
  const WeightSource& weights = merged ? *merged : replaced ? *replaced : *base.weights;
  return largest_row_error(base.config, weights, *written.weights, written.path.string());
}

Comparison Verifier::compare(const ExportOptions& options, const std::filesystem::path& written) const {
  Recipe recipe = trained_;
  std::optional<AtomicFolder> imported;  // never committed, so gone afterwards
  if (options.format == ExportFormat::gguf_lora) {
    imported.emplace(written.string() + ".verified");
    import_gguf_lora(open_base_model(recipe.model.base_model), written, imported->path());
    choose_adapter(recipe, imported->path().string());
  } else if (options.format == ExportFormat::adapter) {
    choose_adapter(recipe, written.string());
  } else {
    recipe.model.base_model = written.string();
    choose_adapter(recipe, "none");
  }
  const bool is_onnx = options.format == ExportFormat::onnx;
  const BaseModel base = (is_onnx ? open_onnx_model : open_base_model)(recipe.model.base_model);
  if (base.config.vocab_size != vocab_size_)
    throw Error{Fault::verification,
                {written.string()},
                fmt::format("has {} tokens, what was trained has {}", base.config.vocab_size, vocab_size_),
                "it is another model's"};
  const std::vector<at::Tensor> answers = answers_of(recipe, base.config, *base.weights);
  Comparison result;
  const bool on_nf4 = trained_.adapter.type == AdapterType::qlora && !is_adapter(options.format),
             moved = on_nf4 && (options.merge_base == MergeBase::original || options.separate_adapter);
  if (!is_adapter(options.format)) result.largest_row_error = row_error_of(base, on_nf4 && !moved);
  const std::vector<at::Tensor> expected = moved ? answers_on_original_base() : answers_;
  if (moved) result.of_other_base = difference_of(expected, answers_);
  result.logits = difference_of(answers, expected);
  double trained_surprise = 0, written_surprise = 0;
  std::int64_t predicted = 0;
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const at::Tensor before = expected[i].to(at::kDouble).log_softmax(1),
                     after = answers[i].to(at::kDouble).log_softmax(1);
    result.tokens += static_cast<std::int64_t>(texts_[i].size());
    result.kl += (before.exp() * (before - after)).sum().item<double>();
    trained_surprise += surprise(before, texts_[i]);
    written_surprise += surprise(after, texts_[i]);
    predicted += static_cast<std::int64_t>(texts_[i].size()) - 1;
  }
  result.kl /= static_cast<double>(result.tokens);
  result.trained_perplexity = std::exp(trained_surprise / static_cast<double>(predicted));
  result.written_perplexity = std::exp(written_surprise / static_cast<double>(predicted));
  return result;
}

std::unique_ptr<TokenDataset> held_out_rows(const Recipe& recipe) {
  if (recipe.data.eval_datasets.empty()) return nullptr;
  try {
    return open_inputs(recipe, Purpose::evaluation).evaluation_rows;
  } catch (const Error& error) {  // the run's data may lie on another machine
    tell("note: {}\nnote: verified with fixed texts alone\n", error.what());
    return nullptr;
  }
}

void keep_if_verified(const std::filesystem::path& written, const std::function<void()>& verify) {
  try {
    verify();
  } catch (const Error& error) {
    if (error.fault() == Fault::verification)
      tell("{} is called {} now\n", written.string(), set_aside(written).string());
    throw;
  }
}

void verify_export(const ExportOptions& options, const ExportSource& source, const std::filesystem::path& written) {
  const Recipe recipe = trained_model(source);
  tell_comparison(options, written, Verifier(recipe, source, held_out_rows(recipe).get()).compare(options, written));
}

void tell_comparison(const ExportOptions& options, const std::filesystem::path& written, const Comparison& comparison) {
  const Tolerances tolerances = tolerances_of(options);
  tell(
      "verified {}: {} tokens, logits differ by {:.2g} at most, {:.2g} on average; KL {:.2g} nats a token (may be "
      "{:g}); perplexity {:.4g} -> {:.4g}\n",
      written.string(), comparison.tokens, comparison.logits.max, comparison.logits.mean, comparison.kl, tolerances.kl,
      comparison.trained_perplexity, comparison.written_perplexity);
  if (comparison.of_other_base)
    tell(
        "merged into the original base, which it wasn't trained on: logits differ from the trained model's by {:.2g} "
        "at "
        "most, {:.2g} on average\n",
        comparison.of_other_base->max, comparison.of_other_base->mean);
  const std::optional<RowError>& worst = comparison.largest_row_error;
  if (worst && worst->error > 0)
    tell("weights: rows differ by {:.2g} of their length at most (may be {:g}), in row {} of {}\n", worst->error,
         tolerances.row, worst->row, worst->tensor);
  if (!(comparison.kl <= tolerances.kl))  // true for NaN
    throw Error{
        Fault::verification,
        {written.string()},
        fmt::format("doesn't answer as what was trained: KL {:.3g} nats a token, {:g} is what its numbers may cause",
                    comparison.kl, tolerances.kl),
        "don't serve it; export again, with more bits if it happens again"};
  if (worst && !(worst->error <= tolerances.row))
    throw Error{Fault::verification,
                {written.string()},
                fmt::format("row {} of {} isn't what was trained: it differs by {:.3g} of its length", worst->row,
                            worst->tensor, worst->error),
                "don't serve it; export again"};
}

}  // namespace tune
