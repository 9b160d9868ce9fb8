#include "recipes/schema/fields.h"

#include "recipes/schema/values.h"

namespace tune {
namespace {

constexpr double kMost = 1e9;  // of steps, tokens and rows: beyond it a digit slipped in

Rule from(double min, double max) { return {.min = min, .max = max}; }
Rule above(double min, double max) { return {.min = min, .max = max, .above_min = true}; }
Rule share() { return {.min = 0, .max = 1}; }
Rule share_below_1() { return {.min = 0, .max = 1, .below_max = true}; }
Rule path() { return {.is_path = true}; }
Rule needed_path() { return {.is_path = true, .required = true, .not_empty = true}; }
Rule words(std::vector<std::string> choices) { return {.choices = std::move(choices)}; }

}  // namespace

// Sections stand before those that hold them. A row: name, member, rule, other tools' names, help.

template <>
const std::vector<Row<ModelOptions>>& rows() {
  using S = ModelOptions;
  static const std::vector<Row<S>> all = {
      {"base_model",
       &S::base_model,
       needed_path(),
       {"model_name_or_path", "pretrained_model_name_or_path", "checkpoint_dir"},
       "folder in Hugging Face layout, or one .gguf file"},
      {"dtype", &S::dtype, {}, {"torch_dtype"}, "of the weights in memory; not given: as train.precision says"},
  };
  return all;
}

template <>
const std::vector<Row<AdapterOptions>>& rows() {
  using S = AdapterOptions;
  static const std::vector<Row<S>> all = {
      {"type",
       &S::type,
       {},
       {"finetuning_type", "tuner_type"},
       "lora; qlora: with the base model's linear layers in 4 bits (NF4); none trains all weights"},
      {"lora_r", &S::lora_r, from(1, 1024), {"r", "lora_rank", "rank", "dim"}, "rank of the adapters"},
      {"lora_alpha", &S::lora_alpha, above(0, 65536), {"alpha"}, "the adapters are scaled by lora_alpha / lora_r"},
      {"lora_dropout", &S::lora_dropout, share_below_1(), {"dropout"}, "share of the adapters' inputs that is dropped"},
      {"use_rslora",
       &S::use_rslora,
       {},
       {"rslora"},
       "scaled by lora_alpha / sqrt(lora_r): high ranks learn as fast as low ones"},
      {"loraplus_lr_ratio",
       &S::loraplus_lr_ratio,
       from(1, 1000),
       {},
       "LoRA+: B's learning rate is so many times that of A; 16 is its authors' choice"},
      {"use_dora", &S::use_dora, {}, {"dora"}, "DoRA: the length of each row of a weight is learnt beside the adapter"},
      {"rank_pattern", &S::rank_pattern, from(1, 1024), {}, "other ranks of some modules: {down_proj: 8}"},
      {"alpha_pattern",
       &S::alpha_pattern,
       above(0, 65536),
       {},
       "other alphas of some modules: {layers.0.mlp.up_proj: 64}"},
      {"init_lora_weights",
       &S::init_lora_weights,
       {},
       {},
       "fresh adapters; standard: A random, B zero; pissa: the weight's largest singular vectors"},
      {"pissa_iter",
       &S::pissa_iter,
       from(0, 1000),
       {"pissa_niter"},
       "of pissa: iterations of the fast SVD; 0: exact, slow"},
      {"lora_target_modules",
       &S::lora_target_modules,
       {},
       {"target_modules", "lora_target", "lora_attn_modules"},
       "linear layers that get an adapter, such as q_proj; all-linear: every one of the decoder but routers (gate)"},
      {"modules_to_save",
       &S::modules_to_save,
       words({"embed_tokens", "lm_head"}),
       {"additional_target", "lora_modules_to_save"},
       "trained whole beside the adapters: embed_tokens, lm_head"},
      {"trainable_tokens",
       &S::trainable_tokens,
       {},
       {"trainable_token_indices"},
       "tokens of the vocabulary whose rows of embed_tokens are trained beside the adapters"},
      {"init_adapter",
       &S::init_adapter,
       path(),
       {"lora_model_dir", "adapter_name_or_path"},
       "PEFT folder to start from; empty: fresh adapters"},
  };
  return all;
}

template <>
const std::vector<Row<DatasetOptions>>& rows() {
  using S = DatasetOptions;
  static const std::vector<Row<S>> all = {
      {"path",
       &S::path,
       needed_path(),
       {"data_files"},
       ".jsonl .json .csv .parquet .txt, all but .parquet also .gz or .zst"},
      {"type", &S::type, {}, {"formatting", "format_type"}, "what a row holds"},
      {"weight",
       &S::weight,
       above(0, 1e6),
       {},
       "share of rows against the other data sets; 1: every row once an epoch"},
      {"field_names", &S::field_names, {}, {"columns"}, "our name to the name in the file: {prompt: q, completion: a}"},
      {"field_roles", &S::field_roles, {}, {}, "role in the file to system, user or assistant: {bot: assistant}"},
      {"holdout_every",
       &S::holdout_every,
       from(0, kMost),
       {},
       "k: in datasets every k-th row is left out, in eval_datasets only every k-th row is taken; 0: all rows"},
      {"fim_rate",
       &S::fim_rate,
       share(),
       {},
       "type fim: share of the texts of which a part is cut out to be filled in; not given: 0.5"},
      {"fim_spm_rate",
       &S::fim_spm_rate,
       share(),
       {},
       "type fim: share of those whose suffix stands before the prefix; not given: 0.5"},
  };
  return all;
}

template <>
const std::vector<Row<DataOptions>>& rows() {
  using S = DataOptions;
  static const std::vector<Row<S>> all = {
      {"chat_template",
       &S::chat_template,
       words({kChatTemplates.begin(), kChatTemplates.end()}),
       {"template", "prompt_style", "prompt_template"},
       "prompt format; model: the one of the model's own files"},
      {"max_length",
       &S::max_length,
       from(8, 1048576),
       {"sequence_len", "cutoff_len", "max_seq_length", "max_seq_len", "model_max_length"},
       "tokens of a row at most"},
      {"overflow", &S::overflow, {}, {}, "what happens to rows longer than max_length"},
      {"packing",
       &S::packing,
       {},
       {"sample_packing", "packed", "neat_packing"},
       "several rows in one batch row of max_length; they don't see each other"},
      {"train_on", &S::train_on, {}, {}, "turns that are trained; pretrain always trains all"},
      {"datasets",
       &S::datasets,
       {.required = true, .not_empty = true},
       {"train_dataset", "dataset"},
       "what is trained on"},
      {"eval_datasets", &S::eval_datasets, {}, {"eval_dataset", "test_datasets"}, "what eval_loss is measured on"},
      {"cache_dir", &S::cache_dir, path(), {"dataset_prepared_path"}, "of tokenised data; empty: output_dir/cache"},
  };
  return all;
}

template <>
const std::vector<Row<PreferenceOptions>>& rows() {
  using S = PreferenceOptions;
  static const std::vector<Row<S>> all = {
      {"loss_type",
       &S::loss_type,
       {},
       {"pref_loss", "rl"},
       "sigmoid: DPO; ipo and hinge: other losses of its margin; orpo and simpo: without a reference model; kto: "
       "single "
       "answers, good or bad"},
      {"beta",
       &S::beta,
       above(0, 100),
       {"pref_beta", "rl_beta", "dpo_beta"},
       "how dearly a distance from the reference model is paid; orpo: weight of the odds; simpo wants 2 to 10"},
      {"label_smoothing",
       &S::label_smoothing,
       {.min = 0, .max = 0.5, .below_max = true},
       {"dpo_label_smoothing"},
       "of sigmoid and simpo: share of the pairs that is taken to be labelled the wrong way round"},
      {"simpo_gamma", &S::simpo_gamma, from(0, 100), {}, "of simpo: the margin that is aimed at"},
      {"desirable_weight",
       &S::desirable_weight,
       from(0, 1000),
       {"kto_chosen_weight"},
       "of kto: weight of good answers"},
      {"undesirable_weight",
       &S::undesirable_weight,
       from(0, 1000),
       {"kto_rejected_weight"},
       "of kto: weight of bad answers"},
  };
  return all;
}

template <>
const std::vector<Row<TrainOptions>>& rows() {
  using S = TrainOptions;
  static const std::vector<Row<S>> all = {
      {"num_train_epochs",
       &S::num_train_epochs,
       above(0, 10000),
       {"epochs", "num_epochs"},
       "passes over the training data"},
      {"max_steps", &S::max_steps, from(0, kMost), {}, "optimizer steps; above 0 it wins over num_train_epochs"},
      {"global_batch_size",
       &S::global_batch_size,
       from(1, 1e6),
       {},
       "rows of an optimizer step; of the three sizes two are given, the third follows"},
      {"per_device_train_batch_size",
       &S::per_device_train_batch_size,
       from(1, 1e6),
       {"micro_batch_size", "batch_size", "local_batch_size"},
       "rows of one forward and backward pass"},
      {"gradient_accumulation_steps", &S::gradient_accumulation_steps, from(1, 1e6), {}, "passes of an optimizer step"},
      {"learning_rate", &S::learning_rate, above(0, 10), {"lr"}, "highest learning rate"},
      {"lr_scheduler_type", &S::lr_scheduler_type, {}, {"lr_scheduler", "lr_decay_style"}, "course after the warm-up"},
      {"warmup_ratio", &S::warmup_ratio, share(), {}, "share of the steps in the warm-up"},
      {"warmup_steps",
       &S::warmup_steps,
       from(0, kMost),
       {"num_warmup_steps", "lr_warmup_steps"},
       "steps of the warm-up; above 0 it wins over warmup_ratio"},
      {"decay_ratio", &S::decay_ratio, share(), {}, "wsd only: share of the steps in the final decay"},
      {"optim",
       &S::optim,
       {},
       {"optimizer"},
       "optimizer; adamw_8bit: AdamW with moments of 8 bits, 2 bytes a trained weight instead of 8; adafactor: a "
       "second moment a row and column, no first one"},
      {"adam_beta1", &S::adam_beta1, share_below_1(), {"beta1"}, "AdamW's decay of the mean"},
      {"adam_beta2", &S::adam_beta2, share_below_1(), {"beta2"}, "AdamW's decay of the square"},
      {"adam_epsilon", &S::adam_epsilon, above(0, 1), {"adam_eps", "eps"}, "AdamW's guard against division by 0"},
      {"weight_decay", &S::weight_decay, share(), {}, "decoupled from the gradient"},
      {"max_grad_norm",
       &S::max_grad_norm,
       from(0, 1e6),
       {"clip_grad_norm", "max_norm", "gradient_clipping"},
       "gradients are scaled down to this norm; 0: never"},
      {"neftune_noise_alpha",
       &S::neftune_noise_alpha,
       from(0, 1000),
       {"noise_alpha"},
       "NEFTune: noise on the embeddings while training, 5 to 15 for instructions; 0: none"},
      {"optimizer_in_backward",
       &S::optimizer_in_backward,
       {},
       {"optimizer_in_bwd"},
       "full fine-tuning: each layer is updated in the backward pass, so that no gradients of the whole model are "
       "held"},
      {"bf16_stochastic_round",
       &S::bf16_stochastic_round,
       {},
       {},
       "full fine-tuning in bf16: no fp32 masters, updates are rounded up or down at random"},
      {"offload_optimizer",
       &S::offload_optimizer,
       {},
       {"cpu_offload_optimizer", "optimizer_offload"},
       "the optimizer's state lies in the host's memory; each step takes it to the GPU a tensor at a time"},
      {"train_router",
       &S::train_router,
       {},
       {},
       "mixture of experts with adapter.type none: the routers' weights are trained, too"},
      {"router_aux_loss_coef",
       &S::router_aux_loss_coef,
       from(0, 1000),
       {"moe_aux_loss_coef", "aux_loss_coef"},
       "weight of the loss that keeps experts evenly loaded; not given: the model's own where routers are trained, "
       "else 0"},
      {"gradient_checkpointing",
       &S::gradient_checkpointing,
       {},
       {"enable_activation_checkpointing", "activation_checkpointing"},
       "less memory for a third more computing"},
      {"precision",
       &S::precision,
       {},
       {},
       "of the arithmetic; fp16 scales the loss, so that gradients don't vanish; fp8: bf16, with the frozen base's "
       "linear layers kept and multiplied in fp8 (Hopper)"},
      {"device", &S::device, {}, {}, "auto: the GPU where there is one"},
      {"seed", &S::seed, from(0, 9007199254740992), {"random_seed"}, "of order, dropout and fresh adapters"},
      {"deterministic",
       &S::deterministic,
       {},
       {},
       "CUDA: only exact kernels, so that resume is bit-exact, any other is refused; false is faster; CPU: always"},
  };
  return all;
}

template <>
const std::vector<Row<EvalOptions>>& rows() {
  using S = EvalOptions;
  static const std::vector<Row<S>> all = {
      {"eval_steps", &S::eval_steps, from(0, kMost), {"eval_interval"}, "0: only before the first step and at the end"},
      {"per_device_eval_batch_size",
       &S::per_device_eval_batch_size,
       from(1, 1e6),
       {"eval_batch_size"},
       "rows at a time; while training, at most 2048 tokens or as many as a micro-batch has"},
      {"sample_prompts", &S::sample_prompts, {}, {}, "answered before and after training"},
      {"sample_max_tokens", &S::sample_max_tokens, from(1, 1048576), {"max_new_tokens"}, "of such an answer"},
      {"early_stopping_patience",
       &S::early_stopping_patience,
       from(0, kMost),
       {},
       "training ends after so many evaluations in a row whose eval_loss is no improvement; 0: never early"},
      {"early_stopping_threshold",
       &S::early_stopping_threshold,
       from(0, 100),
       {},
       "by how much eval_loss must fall below the best one to be an improvement"},
  };
  return all;
}

template <>
const std::vector<Row<SaveOptions>>& rows() {
  using S = SaveOptions;
  static const std::vector<Row<S>> all = {
      {"save_steps",
       &S::save_steps,
       from(0, kMost),
       {"save_interval", "save_every_n_steps", "ckpt_every_steps"},
       "steps between checkpoints; 0: only at the end"},
      {"save_total_limit",
       &S::save_total_limit,
       from(1, kMost),
       {"keep_last_n_checkpoints"},
       "older checkpoints are deleted, but not the one with the lowest eval_loss"},
      {"load_best_model_at_end",
       &S::load_best_model_at_end,
       {},
       {},
       "final/ and exports are of the evaluated step with the lowest eval_loss, which is saved whenever there is a new "
       "one"},
  };
  return all;
}

template <>
const std::vector<Row<LoggingOptions>>& rows() {
  using S = LoggingOptions;
  static const std::vector<Row<S>> all = {
      {"logging_steps",
       &S::logging_steps,
       from(1, kMost),
       {"log_every_n_steps", "log_interval"},
       "steps between log lines"},
      {"report_to",
       &S::report_to,
       words({"jsonl", "tensorboard"}),
       {},
       "where log lines go; []: only the progress line"},
  };
  return all;
}

template <>
const std::vector<Row<DistributedOptions>>& rows() {
  using S = DistributedOptions;
  static const std::vector<Row<S>> all = {
      {"strategy",
       &S::strategy,
       {},
       {},
       "ddp: every rank holds the whole model; shard: an equal part of it (ZeRO-3, FSDP)"},
      {"shard_size",
       &S::shard_size,
       from(0, 65536),
       {"dp_shard_size", "data_parallel_shard_degree"},
       "with shard: ranks that keep one copy of the model between them, those of a host for example; 0: all ranks"},
      {"reshard_after_forward",
       &S::reshard_after_forward,
       {},
       {"fsdp_reshard_after_forward"},
       "with shard: false keeps all weights from the forward to the backward pass: more memory, a third less to send"},
      {"timeout_seconds",
       &S::timeout_seconds,
       from(1, 86400),
       {"ddp_timeout"},
       "how long a rank may keep the others waiting before the run ends and names it"},
  };
  return all;
}

template <>
const std::vector<Row<ExportOptions>>& rows() {
  using S = ExportOptions;
  static const std::vector<Row<S>> all = {
      {"format", &S::format, {}, {}, "what others can load: PEFT, Hugging Face, llama.cpp, onnxruntime"},
      {"quant",
       &S::quant,
       {},
       {"gguf_quant", "outtype", "quantization_method"},
       "of the weights in hf, gguf and onnx; not given: bf16; q8_0 to q4_0 with gguf only, int8 and int4 with onnx "
       "only"},
      {"separate_adapter",
       &S::separate_adapter,
       {},
       {},
       "of onnx: the adapter beside the base's weights, loaded at run time, instead of merged into them"},
      {"max_shard_size",
       &S::max_shard_size,
       {},
       {"split_max_size"},
       "of hf and gguf: bytes of tensors a file at most, such as 5GB; empty: 5GB with hf, one file with gguf"},
      {"merge_base",
       &S::merge_base,
       {},
       {},
       "of hf, gguf and onnx with adapter.type qlora: the adapter goes into the base as it was trained with, or into "
       "the "
       "original one; not given: dequantized"},
      {"verify", &S::verify, {}, {}, "it is read back, and its answers are compared with the trained model's"},
      {"imatrix",
       &S::imatrix,
       {.is_path = true},
       {},
       "of gguf from q6_k to q4_0: calibration rows laid out as the first data set's, or a .gguf of tune imatrix; the "
       "columns that count there lose less"},
      {"check", &S::check, {}, {}, "of adapter; vllm: an adapter that vLLM would not load is refused before training"},
      {"flavour", &S::flavour, {}, {}, "of onnx; standard: any runtime; genai: onnxruntime-genai; not given: standard"},
  };
  return all;
}

template <>
const std::vector<Row<Recipe>>& rows() {
  using S = Recipe;
  static const std::vector<Row<S>> all = {
      {"model", &S::model, {}, {}, ""},
      {"stage",
       &S::stage,
       {},
       {},
       "pretrain: plain text; sft: conversations; dpo: pairs of answers of which one is preferred"},
      {"adapter", &S::adapter, {}, {"peft"}, ""},
      {"data", &S::data, {}, {}, ""},
      {"preference", &S::preference, {}, {"dpo"}, ""},
      {"train", &S::train, {}, {"training"}, ""},
      {"eval", &S::eval, {}, {}, ""},
      {"save", &S::save, {}, {}, ""},
      {"logging", &S::logging, {}, {}, ""},
      {"distributed", &S::distributed, {}, {}, ""},
      {"export", &S::exports, {}, {"exports"}, "written when training ends"},
      {"output_dir", &S::output_dir, {.is_path = true, .not_empty = true}, {"out_dir"}, "everything that a run writes"},
  };
  return all;
}

std::vector<FieldDoc> field_docs() {
  std::vector<FieldDoc> docs;
  list_fields<Recipe>("", docs);
  return docs;
}

Recipe read_fields(const YamlValue& document, const std::string& file, Reading& reading) {
  Recipe recipe;
  recipe.file = file;
  reading.places[""] = {file};
  if (document.kind == YamlValue::Kind::map || document.kind == YamlValue::Kind::null)
    read_section(recipe, document.entries, {file}, "", reading);
  else
    reading.problems.add(document.place, fmt::format("the recipe is {}", describe(document)),
                         "it must be sections such as model: and data:");
  return recipe;
}

std::string write_fields(const Recipe& recipe) { return write_section(recipe, 0, ""); }

std::string canonical_name(std::string_view section_path, std::string_view name) {
  const std::string path = without_positions(section_path);
  const auto of = [&](const auto* row) { return std::string(row == nullptr ? name : row->name); };
  if (path.empty()) return of(find_row<Recipe>(name));
  if (path == "model.") return of(find_row<ModelOptions>(name));
  if (path == "adapter.") return of(find_row<AdapterOptions>(name));
  if (path == "data.") return of(find_row<DataOptions>(name));
  if (path == "data.datasets[]." || path == "data.eval_datasets[].") return of(find_row<DatasetOptions>(name));
  if (path == "preference.") return of(find_row<PreferenceOptions>(name));
  if (path == "train.") return of(find_row<TrainOptions>(name));
  if (path == "eval.") return of(find_row<EvalOptions>(name));
  if (path == "save.") return of(find_row<SaveOptions>(name));
  if (path == "logging.") return of(find_row<LoggingOptions>(name));
  if (path == "distributed.") return of(find_row<DistributedOptions>(name));
  if (path == "export[].") return of(find_row<ExportOptions>(name));
  return std::string(name);
}

}  // namespace tune
