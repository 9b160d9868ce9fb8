#include "train/inputs.h"

#include <fmt/format.h>

#include "data/dataset.h"
#include "data/templates/own_template.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "train/device.h"
#include "train/host_arena.h"
#include "train/plan/plan.h"

namespace tune {
namespace {

// Ids that end an answer: the model's own EOS ids, the tokenizer's and the template's.
std::vector<std::int32_t> stop_ids(const Inputs& inputs) {
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : inputs.base.config.eos_token_ids) ids.push_back(static_cast<std::int32_t>(id));
  if (inputs.tokenizer->eos_id) ids.push_back(*inputs.tokenizer->eos_id);
  const std::string_view end = inputs.chat_template->end_of_turn();
  if (const auto id = end.empty() ? std::nullopt : inputs.tokenizer->token_id(end)) ids.push_back(*id);
  return ids;
}

std::vector<std::int32_t> trainable_token_ids(const Recipe& recipe, const ModelConfig& config) {
  std::vector<std::int32_t> ids;
  if (recipe.adapter.trainable_tokens.empty()) return ids;
  const auto tokenizer = open_tokenizer(recipe.model.base_model);
  for (const std::string& token : recipe.adapter.trainable_tokens) {
    const auto id = tokenizer->token_id(token);
    if (!id || *id >= config.vocab_size)
      throw Error{Fault::recipe, recipe.place_of("adapter.trainable_tokens"),
                  fmt::format("trainable_tokens has \"{}\", which is no token of {}", token, recipe.model.base_model),
                  "name tokens of its vocabulary; new ones get their rows with transformers' resize_token_embeddings() "
                  "first"};
    ids.push_back(*id);
  }
  return ids;
}

}  // namespace

std::filesystem::path token_cache_of(const Recipe& recipe) {
  return std::filesystem::path(recipe.output_dir) / "cache";
}

Inputs open_inputs(const Recipe& recipe, Purpose purpose) {
  Inputs inputs;
  inputs.base = open_base_model(recipe.model.base_model);
  inputs.tokenizer = open_tokenizer(inputs.base.path);
  if (inputs.tokenizer->vocab_size() > inputs.base.config.vocab_size)
    throw Error{
        Fault::data,
        {inputs.base.path.string()},
        fmt::format("the tokenizer has {} ids, the model has rows for {}", inputs.tokenizer->vocab_size(),
                    inputs.base.config.vocab_size),
        "tokenizer and weights are not of the same model: put the model's own tokenizer files beside its weights"};
  inputs.chat_template = &find_template(recipe.data.chat_template, *inputs.tokenizer);
  for (const std::string& warning :
       template_warnings(*inputs.chat_template, *inputs.tokenizer, recipe.stage, recipe.data.datasets))
    tell("warning: {}\n", warning);
  DataOptions data = recipe.data;
  const std::filesystem::path of_run = token_cache_of(recipe);
  if (data.cache_dir.empty() && purpose == Purpose::training) data.cache_dir = of_run.string();
  const auto rows = [&](const std::vector<DatasetOptions>& which, bool evaluation) {
    AuditCounts counts;
    auto tokens = tokenize(data, which, evaluation, *inputs.tokenizer, *inputs.chat_template, recipe.stage,
                           recipe.train.seed, of_run, &counts);
    for (const std::string& warning : long_row_warnings(counts, inputs.base.config.max_position_embeddings))
      tell("warning: {}\n", warning);
    return tokens;
  };
  if (purpose != Purpose::evaluation) inputs.train_rows = rows(recipe.data.datasets, false);
  if (!recipe.data.eval_datasets.empty()) inputs.evaluation_rows = rows(recipe.data.eval_datasets, true);
  return inputs;
}

DecoderOptions decoder_options(const Recipe& recipe, const ModelConfig& config, bool training) {
  const Dtype dtype = dtype_of(recipe);
  const std::string device = chosen_device(recipe.train.device);
  require_arithmetic(device, dtype);
  return {.dtype = dtype,
          .device = device,
          .fp8_base = training && recipe.train.precision == Precision::fp8,  // what is handed over computes in bf16
          .adapter = recipe.adapter,
          .trainable_token_ids = trainable_token_ids(recipe, config),
          .training = training,
          .gradient_checkpointing = recipe.train.gradient_checkpointing,
          .train_router = recipe.train.train_router,
          .bf16_stochastic_round = recipe.train.bf16_stochastic_round,
          .neftune_noise_alpha = training ? recipe.train.neftune_noise_alpha : 0,
          .router_aux_loss_coef = router_aux_loss_coef(recipe, config),
          .reshard_after_forward = recipe.distributed.reshard_after_forward,
          .seed = recipe.train.seed};
}

std::unique_ptr<Decoder> load_decoder(const BaseModel& base, const DecoderOptions& options,
                                      std::unique_ptr<WeightKeeper> keeper) {
  if (options.device == "cpu") keep_cpu_tensors_in_arena();
  return std::make_unique<Decoder>(base.config, *base.weights, options, std::move(keeper));
}

std::string answer(Decoder& decoder, const Inputs& inputs, const std::string& question,
                   const GenerateOptions& options) {
  const std::vector<Span> spans =
      inputs.chat_template->render({{"user", question}}, *inputs.tokenizer, TrainOn::assistant, true);
  const Row prompt = encode_spans(spans, *inputs.tokenizer, inputs.tokenizer->add_bos);
  return inputs.tokenizer->decode(generate(decoder, prompt.ids, stop_ids(inputs), options));
}

}  // namespace tune
