#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/schema/place.h"

namespace tune {

// A recipe as plain structs, one a section of the YAML file. A section is the option struct itself: it is handed to the
// code that works with it and never translated into a second one. The defaults stand here and nowhere else.
// Enum values are spelled as in the YAML file (an underscore where YAML has a hyphen).

enum class Dtype { fp32, bf16, fp16 };
enum class Precision { fp32, bf16, fp16, fp8 };
enum class Stage { pretrain, sft, dpo };
enum class AdapterType { none, lora, qlora };
enum class Overflow { error, drop, truncate, split };
enum class TrainOn { assistant, last, all };
enum class DatasetType { chat, alpaca, prompt_completion, text, fim, preference, unpaired_preference };
enum class PreferenceLoss { sigmoid, ipo, hinge, orpo, simpo, kto };
enum class LoraInit { standard, pissa };
enum class Scheduler { constant, linear, cosine, wsd };
enum class OptimizerType { adamw, adamw_8bit, adafactor, sgd };
enum class Device { automatic, cpu, cuda };
enum class ExportFormat { adapter, hf, gguf, gguf_lora, onnx };
enum class Quant { f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_0, q4_k_m, q4_0, int8, int4 };
enum class OnnxFlavour { standard, genai };
enum class ServingCheck { vllm };
enum class MergeBase { original, dequantized };
enum class Strategy { ddp, shard };

struct ModelOptions {
  std::string base_model;      // folder in Hugging Face layout, or one .gguf file
  std::optional<Dtype> dtype;  // of the weights in memory; default: as train.precision says
};

/// Every linear layer that some decoder has, in model order: of a dense one up to down_proj; a mixture of experts has
/// gate, its router, and w1, w3, w2 of each expert instead of gate_proj, up_proj and down_proj.
inline const std::vector<std::string> kLinearModules = {
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "gate", "w1", "w3", "w2"};

struct AdapterOptions {
  AdapterType type = AdapterType::lora;  // none = full fine-tuning; qlora = lora on a base that is kept in NF4
  std::int64_t lora_r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0.0;
  bool use_rslora = false;         // scaled by lora_alpha / sqrt(lora_r) instead
  double loraplus_lr_ratio = 1.0;  // B learns so many times faster than A
  bool use_dora = false;           // beside A and B each row's length is learnt, too
  /// Other ranks and alphas, by module name, "down_proj", or a longer end of it, "layers.0.self_attn.q_proj"
  std::map<std::string, std::int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  LoraInit init_lora_weights = LoraInit::standard;  // standard: A uniform, B zero
  std::int64_t pissa_iter = 16;                     // of pissa: iterations of the fast SVD; 0 = an exact one
  /// module names such as q_proj, or the one word "all-linear": every linear layer of the decoder but lm_head and
  /// routers
  std::vector<std::string> lora_target_modules = {"all-linear"};
  std::vector<std::string> modules_to_save;   // trained whole beside the adapters: embed_tokens, lm_head
  std::vector<std::string> trainable_tokens;  // of the vocabulary: their rows of embed_tokens are trained, too
  std::string init_adapter;                   // a PEFT folder to start from; empty = fresh ones
};

inline bool has_adapter(const AdapterOptions& adapter) { return adapter.type != AdapterType::none; }

inline constexpr double kDefaultFimRate = 0.5, kDefaultFimSpmRate = 0.5;

struct DatasetOptions {
  std::string path;  // .jsonl .json .csv .parquet .txt, all but .parquet also .gz or .zst
  DatasetType type = DatasetType::chat;
  double weight = 1.0;  // share of rows against the other data sets; 1 = every row once an epoch
  std::map<std::string, std::string> field_names;  // our name -> the name in the file, e.g. {prompt: q, completion: a}
  std::map<std::string, std::string> field_roles;  // role in the file -> system | user | assistant
  /// k > 0: only rows whose index (from 0) % k == 0 (eval), or all but those (train)
  std::int64_t holdout_every = 0;
  std::optional<double> fim_rate;      // fim only, 0.5 unless given: share of the texts that are cut in three
  std::optional<double> fim_spm_rate;  // fim only, 0.5 unless given: share of those whose suffix comes first
};

/// The prompt formats that data/templates has, and `model`: the one that the model's own files speak.
inline constexpr std::string_view kModelTemplate = "model";
inline constexpr std::array<std::string_view, 10> kChatTemplates = {
    "zephyr", "llama2", "mistral", "solar", "codellama", "codellama-70b", "chatml", "alpaca", "none", kModelTemplate};

struct DataOptions {
  std::string chat_template = "chatml";  // one of kChatTemplates
  std::int64_t max_length = 2048;        // tokens
  Overflow overflow = Overflow::error;
  bool packing = true;
  TrainOn train_on = TrainOn::assistant;
  std::vector<DatasetOptions> datasets;
  std::vector<DatasetOptions> eval_datasets;
  std::string cache_dir;  // of tokenised data; empty = output_dir/cache
};

/// Of stage dpo: what pairs of answers, of which one is preferred, teach.
struct PreferenceOptions {
  PreferenceLoss loss_type = PreferenceLoss::sigmoid;
  double beta = 0.1;              // how dearly a distance from the reference model is paid; orpo: weight of the odds
  double label_smoothing = 0.0;   // of sigmoid and simpo: share of the pairs taken to be labelled the wrong way round
  double simpo_gamma = 0.5;       // of simpo: margin that is aimed at
  double desirable_weight = 1;    // of kto: of the loss of good answers
  double undesirable_weight = 1;  // of kto: and of bad ones
};

struct TrainOptions {
  double num_train_epochs = 1.0;
  std::int64_t max_steps = 0;  // > 0 wins over num_train_epochs
  // two of the three are given, the third is derived by the reader; all are > 0 afterwards
  std::int64_t global_batch_size = 0;
  std::int64_t per_device_train_batch_size = 0;
  std::int64_t gradient_accumulation_steps = 0;
  double learning_rate = 2.0e-4;
  Scheduler lr_scheduler_type = Scheduler::cosine;
  double warmup_ratio = 0.0;
  std::int64_t warmup_steps = 0;  // > 0 wins over warmup_ratio
  double decay_ratio = 0.1;       // wsd only: share of the steps in the final decay
  OptimizerType optim = OptimizerType::adamw;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1.0e-8;
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;          // 0 = no clipping
  double neftune_noise_alpha = 0.0;    // 0 = no noise on embeddings
  bool optimizer_in_backward = false;  // full fine-tuning: each layer is updated as soon as its gradients are there
  bool bf16_stochastic_round = false;  // full fine-tuning: no fp32 masters
  bool offload_optimizer = false;      // the optimizer's state lies in the host's memory
  bool train_router = false;  // full fine-tuning of a mixture of experts; adapters name gate in lora_target_modules
  std::optional<double> router_aux_loss_coef;  // default: the model's own where its routers are trained, else 0
  bool gradient_checkpointing = false;
  Precision precision = Precision::bf16;  // fp8: bf16, but the frozen base's products are of fp8
  Device device = Device::automatic;
  std::int64_t seed = 42;
  bool deterministic = true;
};

struct EvalOptions {
  std::int64_t eval_steps = 0;  // 0 = only at step 0 and at the end
  std::int64_t per_device_eval_batch_size = 8;
  std::vector<std::string> sample_prompts;  // answered before and after training
  std::int64_t sample_max_tokens = 96;
  std::int64_t early_stopping_patience = 0;  // evaluations in a row without improvement; 0 = train to the end
  double early_stopping_threshold = 0.0;     // by how much eval_loss must fall to count as improvement
};

struct SaveOptions {
  std::int64_t save_steps = 0;          // 0 = only at the end
  std::int64_t save_total_limit = 3;    // the newest and the best one are kept in any case
  bool load_best_model_at_end = false;  // final/ and exports are of the step with the lowest eval_loss
};

struct LoggingOptions {
  std::int64_t logging_steps = 1;
  std::vector<std::string> report_to = {"jsonl", "tensorboard"};
};

/// What counts only where several ranks train: how many there are is the launcher's business.
struct DistributedOptions {
  Strategy strategy = Strategy::ddp;
  std::int64_t shard_size = 0;         // of shard: ranks that keep one copy between them; 0: all of them
  bool reshard_after_forward = true;   // of shard: false keeps a pass's weights for its backward pass
  std::int64_t timeout_seconds = 120;  // that a rank may keep the others waiting, at the meeting and in a step
};

inline constexpr Quant kDefaultQuant = Quant::bf16;

inline constexpr OnnxFlavour kDefaultFlavour = OnnxFlavour::standard;

inline bool is_adapter(ExportFormat format) {
  return format == ExportFormat::adapter || format == ExportFormat::gguf_lora;
}

struct ExportOptions {
  ExportFormat format = ExportFormat::adapter;
  std::optional<Quant> quant;          // of hf, gguf and onnx, bf16 unless given; an adapter keeps its own numbers
  std::optional<OnnxFlavour> flavour;  // of onnx, standard unless given
  bool separate_adapter = false;       // of onnx: not merged into the weights, but loaded at run time
  std::string max_shard_size;          // of hf and gguf: "5GB"; empty: 5 GB with hf, one file with gguf
  std::string imatrix;                 // of gguf, q6_k to q4_0: calibration data, or an importance matrix (.gguf)
  /// of hf, gguf and onnx after qlora: what the adapter is merged into, the weights that it was trained with
  /// (dequantized, unless given) or the base model's own
  std::optional<MergeBase> merge_base;
  bool verify = true;                 // read back and compared with what was trained
  std::optional<ServingCheck> check;  // of adapter: refused unless that program loads it
};

struct Recipe {
  std::string file;  // where it was read from, for messages
  ModelOptions model;
  Stage stage = Stage::sft;
  AdapterOptions adapter;
  DataOptions data;
  PreferenceOptions preference;
  TrainOptions train;
  EvalOptions eval;
  SaveOptions save;
  LoggingOptions logging;
  DistributedOptions distributed;
  std::vector<ExportOptions> exports;  // `export:` in YAML
  std::string output_dir = "runs/default";
  std::map<std::string, Place> places;  // of every key given, by its path: "data.datasets[0].path"

  /// Of the key or, where it is not given, of the nearest section around it.
  Place place_of(std::string path) const;
};

/// What computes and, unless they are quantised, the weights in memory.
inline Dtype dtype_of(Precision precision) {
  if (precision == Precision::fp32) return Dtype::fp32;
  return precision == Precision::fp16 ? Dtype::fp16 : Dtype::bf16;
}
inline Dtype dtype_of(const Recipe& recipe) { return recipe.model.dtype.value_or(dtype_of(recipe.train.precision)); }

}  // namespace tune
