#include "recipes/schema/advice.h"

#include <array>

namespace tune {
namespace {

struct KeyAdvice {
  std::string_view name, advice;
};
constexpr std::array kKeys = {
    KeyAdvice{"load_in_4bit", "write adapter.type: qlora"},
    KeyAdvice{"load_in_8bit", "write adapter.type: qlora, which is 4 bits, or on Hopper train.precision: fp8"},
    KeyAdvice{"quantization_bit", "write adapter.type: qlora, which is 4 bits"},
    KeyAdvice{"bnb_4bit_quant_type", "write adapter.type: qlora, which is nf4"},
    KeyAdvice{"bnb_4bit_use_double_quant", "adapter.type: qlora always quantises the scales, too"},
    KeyAdvice{"bnb_4bit_compute_dtype", "write train.precision: bf16, fp16 or fp32"},
    KeyAdvice{"use_dora", "write adapter.use_dora: true"},
    KeyAdvice{"modules_to_save", "write adapter.modules_to_save: [embed_tokens, lm_head]"},
    KeyAdvice{"bf16", "write train.precision: bf16"},
    KeyAdvice{"fp16", "write train.precision: fp16, or bf16 where the hardware has it"},
    KeyAdvice{"fp8", "write train.precision: fp8"},
    KeyAdvice{"train_on_inputs", "write data.train_on: all (true) or assistant (false)"},
    KeyAdvice{"train_on_input", "write data.train_on: all (true) or assistant (false)"},
    KeyAdvice{"train_on_prompt", "write data.train_on: all (true) or assistant (false)"},
    KeyAdvice{"mask_prompt", "write data.train_on: assistant (true) or all (false)"},
    KeyAdvice{"completion_only_loss", "write data.train_on: assistant (true) or all (false)"},
    KeyAdvice{"assistant_only_loss", "write data.train_on: assistant (true) or all (false)"},
    KeyAdvice{"masking_strategy", "write data.train_on: assistant, last or all"},
    KeyAdvice{"val_set_size", "write holdout_every: k in a data set of datasets and of eval_datasets"},
    KeyAdvice{"resume_from_checkpoint", "it belongs on the command line: tune run --resume auto"},
    KeyAdvice{"deepspeed", "write distributed.strategy: shard"},
    KeyAdvice{"fsdp", "write distributed.strategy: shard"},
    KeyAdvice{"<<", "YAML merge keys are not part of recipes; write the keys out"},
};

struct ValueAdvice {
  std::string_view path, value, advice;
};
constexpr std::string_view kPlannedReport = "jsonl and tensorboard are written; wandb and others can import those";
constexpr std::array kValues = {
    ValueAdvice{"stage", "kto", "write stage: dpo and preference.loss_type: kto"},
    ValueAdvice{"stage", "orpo", "write stage: dpo and preference.loss_type: orpo"},
    ValueAdvice{"stage", "simpo", "write stage: dpo and preference.loss_type: simpo"},
    ValueAdvice{"preference.loss_type", "dpo", "write sigmoid"},
    ValueAdvice{"adapter.type", "full", "write none to train all weights"},
    ValueAdvice{"train.optim", "adamw_bnb_8bit", "write adamw_8bit"},
    ValueAdvice{"train.optim", "paged_adamw_8bit", "write adamw_8bit, and train.offload_optimizer: true"},
    ValueAdvice{"train.optim", "paged_adamw", "write adamw, and train.offload_optimizer: true"},
    ValueAdvice{"train.optim", "paged_adamw_32bit", "write adamw, and train.offload_optimizer: true"},
    ValueAdvice{"train.optim", "adamw_torch", "write adamw"},
    ValueAdvice{"train.optim", "adamw_torch_fused", "write adamw"},
    ValueAdvice{"train.lr_scheduler_type", "warmup_stable_decay", "write wsd"},
    ValueAdvice{"data.datasets[].type", "tokens", kPlanned},
    ValueAdvice{"data.datasets[].type", "sharegpt", "write chat; ShareGPT conversations are recognised"},
    ValueAdvice{"data.datasets[].type", "openai", "write chat; OpenAI messages are recognised"},
    ValueAdvice{"data.datasets[].type", "chat_template", "write chat"},
    ValueAdvice{"data.datasets[].type", "completion", "write text, or prompt_completion for pairs"},
    ValueAdvice{"data.datasets[].type", "pretrain", "write text"},
    ValueAdvice{"distributed.strategy", "fsdp", "write shard"},
    ValueAdvice{"distributed.strategy", "zero3", "write shard"},
    ValueAdvice{"export[].quant", "q4_k", "write q4_k_m"},
    ValueAdvice{"export[].quant", "q4_k_s", "write q4_k_m"},
    ValueAdvice{"export[].quant", "q5_k", "write q5_k_m"},
    ValueAdvice{"export[].quant", "q5_k_s", "write q5_k_m"},
    ValueAdvice{"logging.report_to", "wandb", kPlannedReport},
    ValueAdvice{"logging.report_to", "mlflow", kPlannedReport},
    ValueAdvice{"logging.report_to", "none", "write an empty list: []"},
    ValueAdvice{"adapter.lora_target_modules", "all", "write all-linear"},
};

}  // namespace

std::string_view advice_for_key(std::string_view name) {
  for (const KeyAdvice& row : kKeys)
    if (row.name == name) return row.advice;
  return {};
}

std::string_view advice_for_value(std::string_view path, std::string_view value) {
  if (path == "data.eval_datasets[].type") path = "data.datasets[].type";
  for (const ValueAdvice& row : kValues)
    if (row.path == path && row.value == value) return row.advice;
  return {};
}

}  // namespace tune
