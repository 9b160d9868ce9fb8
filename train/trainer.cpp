#include "train/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/training/restore.h"
#include "checkpoints/training/retention.h"
#include "data/loader.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "recipes/schema/writer.h"
#include "train/adapter_config.h"
#include "train/device.h"
#include "train/inputs.h"
#include "train/metrics/report.h"
#include "train/metrics/reporter.h"
#include "train/model/checkpoint_weights.h"
#include "train/model/tuned_weights.h"
#include "train/model/unit_gradients.h"
#include "train/optim/loss_scaler.h"
#include "train/optim/optimizer.h"
#include "train/parallel/gradient_sum.h"
#include "train/parallel/sharded_weights.h"
#include "train/plan/memory.h"
#include "train/plan/offload.h"
#include "train/plan/plan.h"
#include "train/plan/process.h"
#include "train/reference.h"
#include "train/run_checkpoints.h"
#include "train/run_record.h"
#include "train/sample_answers.h"
#include "train/step.h"
#include "train/stop.h"

namespace tune {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Plan plan_of(Recipe recipe, const Inputs& inputs, const Loader& loader) {
  recipe.train.device = chosen_device(recipe.train.device) == "cpu" ? Device::cpu : Device::cuda;
  return make_plan(recipe, inputs.base.config, &loader, inputs.evaluation_rows.get());
}

// Rank 0 tokenises, while the others wait without a limit; then all map what it has left.
Inputs open_shared_inputs(const Recipe& recipe, World& world) {
  world.enter(Phase::tokenising);
  std::optional<Inputs> inputs;
  world.from_first([&] {
    inputs = open_inputs(recipe, Purpose::training);
    return std::string();
  });
  return inputs ? std::move(*inputs) : open_inputs(recipe, Purpose::training);
}

// The recipe is the same everywhere, but what its paths name need not be. Every rank has hashed what it sees.
void require_same_inputs(World& world, const std::map<std::string, std::string>& facts) {
  for (const auto& [fact, key] :
       {std::pair("model", "model.base_model"), std::pair("init_adapter", "adapter.init_adapter"),
        std::pair("data", "data.datasets"), std::pair("evaluation_data", "data.eval_datasets")}) {
    const std::vector<std::string> hashes = world.from_each(facts.at(fact));
    for (std::size_t i = 1; i < hashes.size(); ++i)
      if (hashes[i] != hashes[0])
        throw Error{Fault::data,
                    {},
                    fmt::format("rank {} finds something else under {} than rank 0", i, key),
                    "all hosts must see the same files under the recipe's paths"};
  }
}

std::optional<PreferenceReport> means_of(const std::optional<PreferenceSums>& sums, std::optional<double> kl) {
  if (!sums) return std::nullopt;
  const auto mean = [](double sum, double count) { return count > 0 ? std::optional(sum / count) : std::nullopt; };
  return PreferenceReport{mean(sums->chosen_reward, sums->chosen),
                          mean(sums->rejected_reward, sums->rejected),
                          kl ? std::nullopt : mean(sums->right, sums->pairs),  // single answers have no rival
                          mean(sums->chosen_log_probability, sums->chosen),
                          mean(sums->rejected_log_probability, sums->rejected),
                          kl};
}

// One training run from its first to its last step. The order of the members is the order in which they are made.
class Run {
 public:
  Run(const Recipe& recipe, const ResumeOption& resume, World& world);
  RunResult train();

 private:
  void prepare_folder(const ResumeOption& resume) const;
  void restore(const LoadedCheckpoint& checkpoint);
  void log(const StepOutcome& outcome, double seconds);
  bool evaluate_when_due();
  void save();
  void find_reference();
  bool is_best() const;
  bool stops_early() const;
  std::int64_t take_best();
  std::optional<std::vector<std::string>> answers();
  bool due(std::int64_t every) const { return every > 0 && step_ % every == 0; }

  const Recipe recipe_;
  const std::filesystem::path folder_;
  World& world_;
  Inputs inputs_;
  Loader loader_;
  const Plan plan_;
  RunRecord record_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<LossScaler> scaler_;  // of fp16
  std::optional<GradientSum> gradient_sum_;
  Objective objective_, evaluation_objective_;
  std::optional<RunCheckpoints> checkpoints_;
  std::unique_ptr<Reporter> reporter_;  // of the rank that writes
  std::int64_t step_ = 0, resumed_from_ = 0;
  std::int64_t tokens_ = 0, trained_tokens_ = 0;  // since step 0
};

Run::Run(const Recipe& recipe, const ResumeOption& resume, World& world)
    : recipe_(recipe),
      folder_(recipe.output_dir),
      world_(world),
      inputs_(open_shared_inputs(recipe, world)),
      loader_(*inputs_.train_rows, recipe.data, recipe.train, world.rank().count),
      plan_(plan_of(recipe, inputs_, loader_)),
      record_(recipe, inputs_, plan_, world.rank().count) {
  require_same_inputs(world, record_.facts());
  require_host_memory(plan_, recipe_.train.optim, world_.rank().local_count, host_memory().available);
  world.enter(Phase::loading);
  const std::optional<LoadedCheckpoint> checkpoint = find_checkpoint(folder_, resume, world_);
  DecoderOptions options = decoder_options(recipe_, inputs_.base.config, true);
  options.adapter_is_restored = checkpoint.has_value();
  use_exact_kernels(options.device, recipe_.train.deterministic);
  std::unique_ptr<WeightKeeper> keeper;
  if (recipe_.distributed.strategy == Strategy::shard && world_.shard_count() > 1)
    keeper = std::make_unique<ShardedWeights>(world_, !options.bf16_stochastic_round);
  if (recipe_.train.optimizer_in_backward) keeper = std::make_unique<UnitGradients>(options);
  decoder_ = load_decoder(inputs_.base, options, std::move(keeper));
  optimizer_ = make_optimizer(decoder_->trained(), recipe_.train);
  if (options.dtype == Dtype::fp16) scaler_.emplace();
  std::vector<Parameter> none;  // slices are sums over the ranks already
  gradient_sum_.emplace(world_, decoder_->trains_slices() ? none : decoder_->trained());
  const bool full = !has_adapter(recipe_.adapter);
  checkpoints_.emplace(
      folder_, recipe_.save,
      full ? std::nullopt : std::optional(adapter_config(recipe_.model.base_model, options, inputs_.base.config)),
      world_, *decoder_, *optimizer_);
  if (world.rank().writes()) prepare_folder(resume);
  find_reference();
  if (checkpoint) restore(*checkpoint);
  if (!world.rank().writes()) return;
  const std::int64_t trained = plan_.trainable_parameters;
  checkpoints_->require_disk(
      (options.bf16_stochastic_round ? 2 : 4) * trained + optimizer_state_bytes(recipe_, inputs_.base.config), step_,
      plan_.steps);
  // Not before the checkpoint was found to belong to this recipe.
  write_atomically(folder_ / "recipe.yaml", write_recipe(recipe_));
  record_.begin();
  reporter_ = std::make_unique<Reporter>(recipe_.logging, folder_, step_, record_.latest.has_value(), plan_.steps);
  reporter_->say(fmt::format("{} steps, {} tokens an epoch, {:.2f} M of {:.1f} M parameters trained, {}{} on {}",
                             plan_.steps, plan_.tokens_per_epoch, plan_.trainable_parameters / 1e6,
                             plan_.parameters / 1e6,
                             full                                         ? "full fine-tuning"
                             : recipe_.adapter.type == AdapterType::qlora ? "QLoRA"
                             : recipe_.adapter.use_dora                   ? "DoRA"
                                                                          : "LoRA",
                             decoder_->has_keeper() ? fmt::format(", sharded over {} ranks", world.shard_count()) : "",
                             device_name(decoder_->options().device)));
}

void Run::prepare_folder(const ResumeOption& resume) const {
  remove_leftovers(folder_);
  remove_leftovers(folder_ / "export");
  if (resume.mode != ResumeOption::Mode::never) return;
  remove_checkpoints(folder_);
  // An older run's result or curves beside this one's recipe would be taken for this one's.
  if (std::filesystem::exists(folder_ / "final")) remove_atomically(folder_ / "final");
  remove_event_files(folder_ / "tensorboard");
}

// The weights are those that training starts from. A fresh adapter changes nothing: without it they are there at any
// time.
void Run::find_reference() {
  objective_ = evaluation_objective_ = Objective(recipe_.stage, recipe_.preference);
  const bool fresh_adapter = has_adapter(recipe_.adapter) && recipe_.adapter.init_adapter.empty();
  if (!objective_.needs_reference() || fresh_adapter) return;
  const auto sums = [&](const TokenDataset& rows, const std::string& hash) {
    const std::string key = record_.reference_key(hash);
    const std::filesystem::path folder =
        recipe_.data.cache_dir.empty() ? token_cache_of(recipe_) : std::filesystem::path(recipe_.data.cache_dir);
    return reference_of(*decoder_, rows, recipe_.eval.per_device_eval_batch_size, plan_.evaluation_limit, world_,
                        folder / (key + ".reference"), key);
  };
  world_.enter(Phase::evaluating, 0);
  objective_.set_reference(sums(*inputs_.train_rows, record_.facts().at("data")));
  if (inputs_.evaluation_rows)
    evaluation_objective_.set_reference(sums(*inputs_.evaluation_rows, record_.facts().at("evaluation_data")));
}

void Run::restore(const LoadedCheckpoint& checkpoint) {
  record_.adopt(checkpoint.facts(), checkpoint.folder());
  if (scaler_) scaler_->restore(checkpoint.facts());
  step_ = resumed_from_ = checkpoint.step();
  checkpoints_->restore(checkpoint, step_ - (scaler_ ? scaler_->skipped_steps() : 0));
  tokens_ = std::stoll(checkpoint.facts().at("tokens"));
  trained_tokens_ = std::stoll(checkpoint.facts().at("trained_tokens"));
  tell("going on from {}\n", checkpoint.folder().string());
}

RunResult Run::train() {
  const auto start = Clock::now();
  RunResult result{.resumed_from = resumed_from_, .final_folder = folder_ / "final"};
  bool going = evaluate_when_due();  // of step 0, or of a step whose evaluation was cut short
  if (going && step_ == 0) {
    if (const auto before = answers())
      record_.answers_before = *before;
    else
      going = false;
  }
  while (going && step_ < plan_.steps && !stops_early()) {
    const auto step_start = Clock::now();
    world_.enter(Phase::training, step_ + 1);
    const std::optional<StepOutcome> outcome =
        optimizer_step(*decoder_, *optimizer_, loader_.step(step_, world_.rank().number), recipe_.train, step_,
                       plan_.steps, world_, *gradient_sum_, objective_, scaler_ ? &*scaler_ : nullptr);
    going = outcome.has_value();
    if (!going) break;
    ++step_;
    tokens_ += outcome->tokens;
    trained_tokens_ += outcome->trained_tokens;
    record_.latest.reset();
    checkpoints_->check();
    log(*outcome, seconds_since(step_start));
    going = (world_.alone() || !outcome->stop_requested) && evaluate_when_due();
    if (going && (due(recipe_.save.save_steps) || step_ == plan_.steps || stops_early() ||
                  (recipe_.save.load_best_model_at_end && is_best())))
      save();
  }
  if (going && stops_early() && world_.rank().writes())
    tell("stopped early, at step {}: eval_loss was no improvement {} times in a row\n", step_,
         record_.without_improvement);
  result.steps = step_;
  result.seconds = seconds_since(start);
  const std::int64_t final_step = going ? take_best() : step_;
  const auto after = going ? answers() : std::nullopt;
  for (std::size_t i = 0; after && i < after->size(); ++i)
    result.samples.push_back({recipe_.eval.sample_prompts[i], record_.answers_before[i], (*after)[i]});
  result.interrupted = !after;
  const UninterruptedWrite until_the_end;
  if (result.interrupted && checkpoints_->saved() != step_) save();
  checkpoints_->finish();
  result.before = record_.before;
  result.after = record_.latest;
  if (!world_.rank().writes()) return result;
  const std::int64_t peak = peak_memory_bytes(decoder_->options().device);
  if (!result.interrupted && has_adapter(recipe_.adapter)) checkpoints_->write_final_adapter();
  if (!result.interrupted && !has_adapter(recipe_.adapter)) {
    // The step has been saved: where no rank has the whole, the checkpoint does.
    if (decoder_->trains_slices())
      result.tuned_weights = std::make_unique<CheckpointWeights>(load_checkpoint(checkpoint_path(folder_, final_step)),
                                                                 inputs_.base.config, std::move(inputs_.base.weights));
    else
      result.tuned_weights = std::make_unique<TunedWeights>(std::move(decoder_), std::move(inputs_.base.weights));
  }
  record_.finish(step_, scaler_ ? std::optional(scaler_->skipped_steps()) : std::nullopt, tokens_, trained_tokens_,
                 result.seconds, peak);
  return result;
}

void Run::log(const StepOutcome& outcome, double seconds) {
  if (reporter_ != nullptr && outcome.skipped)
    reporter_->say(
        fmt::format("step {}: skipped, its gradients overflow fp16 with the loss scaled by {}; by {} from here on",
                    step_, *outcome.loss_scale, scaler_->scale()));
  if (reporter_ == nullptr || (!due(recipe_.logging.logging_steps) && step_ != plan_.steps)) return;
  const double tokens_per_s = static_cast<double>(outcome.tokens) / seconds;
  // a peak of bf16 is no measure for products in fp8
  const double peak = decoder_->options().fp8_base
                          ? 0
                          : peak_flops(decoder_->options().device) * static_cast<double>(world_.rank().count);
  reporter_->report(
      {.step = step_,
       .epoch = loader_.epoch_at(step_),
       .loss = outcome.loss,
       .preference = means_of(outcome.preference, outcome.kl),
       .learning_rate = outcome.learning_rate,
       .grad_norm = outcome.skipped ? std::nullopt : std::optional(outcome.grad_norm),
       .loss_scale = outcome.loss_scale,
       .router_aux_loss = outcome.router_load ? std::optional(outcome.router_load->aux_loss) : std::nullopt,
       .expert_share = outcome.router_load ? std::optional(outcome.router_load->expert_share) : std::nullopt,
       .tokens = tokens_,
       .trained_tokens = trained_tokens_,
       .tokens_per_s = tokens_per_s,
       .mfu = peak > 0 ? std::optional(tokens_per_s * flops_per_token(inputs_.base.config, recipe_.adapter) / peak)
                       : std::nullopt,
       .peak_memory = peak_memory_bytes(decoder_->options().device)});
}

// False when a stop was asked for meanwhile.
bool Run::evaluate_when_due() {
  const bool is_due = step_ == 0 || step_ == plan_.steps || due(recipe_.eval.eval_steps);
  if (!is_due || record_.latest || !inputs_.evaluation_rows) return true;
  world_.enter(Phase::evaluating, step_);
  const std::optional<Evaluation> evaluation =
      evaluate(*decoder_, *inputs_.evaluation_rows, recipe_.data.eval_datasets, recipe_.eval.per_device_eval_batch_size,
               world_, plan_.evaluation_limit, evaluation_objective_);
  if (!evaluation) return false;
  record_.latest = evaluation->total;
  if (step_ == 0) {
    record_.before = record_.latest;
  } else {
    const double loss = record_.latest->loss();
    const bool improved = !record_.lowest_loss || loss < *record_.lowest_loss - recipe_.eval.early_stopping_threshold;
    record_.without_improvement = improved ? 0 : record_.without_improvement + 1;
    record_.lowest_loss = std::min(loss, record_.lowest_loss.value_or(loss));
  }
  if (reporter_ != nullptr)
    reporter_->report({.step = step_,
                       .epoch = loader_.epoch_at(step_),
                       .eval_loss = record_.latest->loss(),
                       .preference = means_of(evaluation->preference, evaluation->kl)});
  return true;
}

std::optional<std::vector<std::string>> Run::answers() {
  if (!recipe_.eval.sample_prompts.empty()) world_.enter(Phase::answering, step_);
  return sample_answers(*decoder_, inputs_, recipe_.eval, recipe_.train.seed, world_);
}

// Of the steps that were evaluated and saved.
bool Run::is_best() const {
  return step_ > 0 && record_.latest &&
         (!record_.best_saved || record_.latest->loss() < record_.best_saved->score.loss());
}

bool Run::stops_early() const {
  const std::int64_t patience = recipe_.eval.early_stopping_patience;
  return patience > 0 && record_.without_improvement >= patience;
}

// Weights and score of the best step, where they are wanted. Returns the step whose weights are here now.
std::int64_t Run::take_best() {
  const std::optional<RunRecord::Best>& best = record_.best_saved;
  if (!recipe_.save.load_best_model_at_end || !best || best->step == step_) return step_;
  checkpoints_->finish();
  world_.from_first([] { return std::string(); });  // what other ranks have written is there
  checkpoints_->restore_weights(load_checkpoint(checkpoint_path(folder_, best->step)));
  record_.latest = best->score;
  if (world_.rank().writes())
    tell("step {} had the lowest eval_loss, {:.4f}: its weights are handed over\n", best->step, best->score.loss());
  return best->step;
}

void Run::save() {
  if (is_best()) record_.best_saved = {step_, *record_.latest};
  std::map<std::string, std::string> facts = record_.facts();
  facts["tokens"] = std::to_string(tokens_);
  facts["trained_tokens"] = std::to_string(trained_tokens_);
  if (scaler_) scaler_->add_to(facts);
  checkpoints_->save(step_, facts, record_.best_saved ? std::optional(record_.best_saved->step) : std::nullopt);
}

}  // namespace

RunResult run_training(const Recipe& recipe, const ResumeOption& resume, World& world) {
  install_stop_signals();
  if (recipe.train.precision == Precision::fp8)
    require_fp8(chosen_device(recipe.train.device), recipe.place_of("train.precision"));
  Run run(recipe, resume, world);
  return run.train();
}

}  // namespace tune
