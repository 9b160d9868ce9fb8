#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "train/evaluate.h"
#include "train/inputs.h"
#include "train/plan/plan.h"

namespace tune {

/// Whether output_dir holds the end of this very run, handed over: of the same recipe to the last key, data, base model
/// and adapter to start from. No model is loaded for it.
bool is_handed_over(const Recipe& recipe, const Inputs& inputs);

/// Into run.json of a finished run: everything that it had to hand over is there.
void mark_handed_over(const std::filesystem::path& output_dir);

/// What was run on what: run.json, and the facts that a checkpoint carries so that a resumed run is the same run.
class RunRecord {
 public:
  /// Hashes the rows of the data and the base model: all of its weights up to a thousand million, about as many rows
  /// spread over all tensors of a larger one. Where they lie doesn't matter.
  RunRecord(const Recipe& recipe, const Inputs& inputs, const Plan& plan, std::int64_t ranks);

  /// Of what the model that training starts from says of those rows: 32 hex digits.
  std::string reference_key(const std::string& hash_of_rows) const;

  /// run.json into recipe.output_dir, without totals.
  void begin() const;

  /// For a checkpoint; the scores and `answers_before` travel along.
  std::map<std::string, std::string> facts() const;

  /// Error{Fault::recipe} naming the keys that differ from the checkpoint's, before and now, or Error{Fault::data}
  /// naming the key whose model, adapter or rows are other ones; a warning on stderr where only the last bits may
  /// differ (device, ranks, threads, library of the products). Takes the scores and `answers_before` over.
  void adopt(const std::map<std::string, std::string>& facts, const std::filesystem::path& checkpoint);

  /// Totals into run.json. skipped_steps: of fp16, whose gradients overflowed.
  void finish(std::int64_t steps, std::optional<std::int64_t> skipped_steps, std::int64_t tokens,
              std::int64_t trained_tokens, double seconds, std::int64_t peak_bytes) const;

  std::optional<Score> before;  // of step 0
  /// Of the evaluations after step 0: which saved step has the lowest loss; the lowest loss, saved or not; and how many
  /// evaluations in a row were no improvement.
  struct Best {
    std::int64_t step = 0;
    Score score;
  };
  std::optional<Best> best_saved;
  std::optional<double> lowest_loss;
  std::int64_t without_improvement = 0;

  std::optional<Score> latest;              // of the step that the run is at, once it is evaluated
  std::vector<std::string> answers_before;  // to eval.sample_prompts

 private:
  void write(const std::string& totals) const;

  std::filesystem::path file_;
  std::string head_;                          // run.json's first part, a JSON object
  std::map<std::string, std::string> facts_;  // that decide the result
  std::string start_;  // what the model that training starts from depends on, beside the base's weights
};

}  // namespace tune
