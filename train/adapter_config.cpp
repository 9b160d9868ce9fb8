#include "train/adapter_config.h"

#include "recipes/schema/lora_shape.h"
#include "train/plan/plan.h"

namespace tune {

AdapterConfig adapter_config(const std::string& base_model, const DecoderOptions& options, const ModelConfig& config) {
  const AdapterOptions adapter = stored_adapter(options.adapter);
  return {.base_model_name_or_path = base_model,
          .r = adapter.lora_r,
          .lora_alpha = adapter.lora_alpha,
          // PEFT refuses dropout on experts; it has no effect on a finished adapter
          .lora_dropout = config.num_local_experts > 0 ? 0.0 : adapter.lora_dropout,
          .target_modules = adapted_modules(adapter, config),
          .use_rslora = adapter.use_rslora,
          .use_dora = adapter.use_dora,
          .rank_pattern = adapter.rank_pattern,
          .alpha_pattern = adapter.alpha_pattern,
          .modules_to_save = adapter.modules_to_save,
          .trainable_token_indices = {options.trainable_token_ids.begin(), options.trainable_token_ids.end()}};
}

}  // namespace tune
