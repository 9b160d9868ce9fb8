#include <fmt/format.h>

#include <algorithm>

#include "recipes/schema/checks.h"
#include "recipes/schema/spelling.h"

namespace tune {
namespace {

// One function a sentence, named after it.

void only_adapters_have_variants(const Recipe& recipe, Reading& reading) {
  const AdapterOptions& adapter = recipe.adapter;
  if (has_adapter(adapter)) return;
  const auto refuse = [&](const char* key) {
    reading.problems.add(reading.place_of(fmt::format("adapter.{}", key)),
                         fmt::format("{} is given, but adapter.type is none", key),
                         "leave it out, or write type: lora");
  };
  if (adapter.use_rslora) refuse("use_rslora");
  if (adapter.loraplus_lr_ratio != 1) refuse("loraplus_lr_ratio");
  if (adapter.use_dora) refuse("use_dora");
  if (!adapter.rank_pattern.empty()) refuse("rank_pattern");
  if (!adapter.alpha_pattern.empty()) refuse("alpha_pattern");
  if (adapter.init_lora_weights != LoraInit::standard) refuse("init_lora_weights");
  if (!adapter.modules_to_save.empty()) refuse("modules_to_save");
  if (!adapter.trainable_tokens.empty()) refuse("trainable_tokens");
}

void fp8_is_for_a_frozen_base_on_a_gpu(const Recipe& recipe, Reading& reading) {
  if (recipe.train.precision != Precision::fp8) return;
  const auto refuse = [&](const char* why, const char* remedy) {
    reading.problems.add(reading.place_of("train.precision"), fmt::format("precision is fp8, but {}", why), remedy);
  };
  if (recipe.adapter.type == AdapterType::none)
    refuse("adapter.type is none: only weights that aren't trained can be kept in it", "write precision: bf16");
  if (recipe.adapter.type == AdapterType::qlora)
    refuse("adapter.type is qlora: the base is kept in 4 bits already", "write precision: bf16, or type: lora");
  if (recipe.adapter.use_dora)
    refuse("use_dora measures the rows' lengths, for which its products are too coarse", "write precision: bf16");
  if (recipe.train.device == Device::cpu)
    refuse("device is cpu: its products need a GPU of compute capability 9.0 (Hopper)", "write precision: bf16");
}

void pissa_begins_with_plain_adapters(const Recipe& recipe, Reading& reading) {
  const AdapterOptions& adapter = recipe.adapter;
  if (adapter.init_lora_weights != LoraInit::pissa) {
    if (adapter.pissa_iter != AdapterOptions{}.pissa_iter)
      reading.problems.add(reading.place_of("adapter.pissa_iter"),
                           "pissa_iter is given, but init_lora_weights is standard",
                           "leave it out, or write init_lora_weights: pissa");
    return;
  }
  const Place place = reading.place_of("adapter.init_lora_weights");
  if (!adapter.init_adapter.empty())
    reading.problems.add(place, "init_lora_weights is pissa, but init_adapter is what training starts from",
                         "leave one of them out");
  if (adapter.use_dora)
    reading.problems.add(place, "init_lora_weights is pissa with use_dora, which PEFT can't store",
                         "leave one of them out");
}

void dora_is_merged_for_programs_without_it(const Recipe& recipe, Reading& reading) {
  if (!recipe.adapter.use_dora) return;
  for (std::size_t i = 0; i < recipe.exports.size(); ++i) {
    const ExportOptions& wanted = recipe.exports[i];
    if (wanted.format == ExportFormat::gguf_lora)
      reading.problems.add(reading.place_of(fmt::format("export[{}].format", i)),
                           "format is gguf-lora, but llama.cpp has no place for DoRA (use_dora)",
                           "write gguf, or use_dora: false");
    if (wanted.separate_adapter)
      reading.problems.add(reading.place_of(fmt::format("export[{}].separate_adapter", i)),
                           "separate_adapter is true, but a graph adds up, and DoRA multiplies (use_dora)",
                           "leave it out, or write use_dora: false");
  }
}

void what_is_trained_whole_has_no_rows_to_choose(const Recipe& recipe, Reading& reading) {
  const AdapterOptions& adapter = recipe.adapter;
  const std::vector<std::string>& whole = adapter.modules_to_save;
  if (!adapter.trainable_tokens.empty() && std::find(whole.begin(), whole.end(), "embed_tokens") != whole.end())
    reading.problems.add(reading.place_of("adapter.trainable_tokens"),
                         "trainable_tokens is given, but modules_to_save has all of embed_tokens",
                         "leave one of them out");
  if (whole.empty() && adapter.trainable_tokens.empty()) return;
  const char* key = whole.empty() ? "trainable_tokens" : "modules_to_save";
  for (std::size_t i = 0; i < recipe.exports.size(); ++i) {
    const ExportOptions& wanted = recipe.exports[i];
    if (wanted.format == ExportFormat::gguf_lora)
      reading.problems.add(reading.place_of(fmt::format("export[{}].format", i)),
                           fmt::format("format is gguf-lora, which has no place for {}", key), "write gguf");
    if (wanted.separate_adapter)
      reading.problems.add(reading.place_of(fmt::format("export[{}].separate_adapter", i)),
                           fmt::format("separate_adapter is true, but a graph has no place for {}", key),
                           "leave it out");
  }
}

}  // namespace

void check_adapter_combinations(const Recipe& recipe, Reading& reading) {
  only_adapters_have_variants(recipe, reading);
  fp8_is_for_a_frozen_base_on_a_gpu(recipe, reading);
  pissa_begins_with_plain_adapters(recipe, reading);
  dora_is_merged_for_programs_without_it(recipe, reading);
  what_is_trained_whole_has_no_rows_to_choose(recipe, reading);
}

}  // namespace tune
