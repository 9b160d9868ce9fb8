#pragma once
#include <array>
#include <string_view>
#include <utility>

#include "recipes/schema/recipe.h"

namespace tune {

/// How the recipe spells the values of an enum, in the order of its documentation.
template <class Enum>
struct Spelling;

template <>
struct Spelling<Dtype> {
  static constexpr auto values = std::to_array<std::pair<Dtype, std::string_view>>(
      {{Dtype::fp32, "fp32"}, {Dtype::bf16, "bf16"}, {Dtype::fp16, "fp16"}});
};
template <>
struct Spelling<Precision> {
  static constexpr auto values = std::to_array<std::pair<Precision, std::string_view>>(
      {{Precision::fp32, "fp32"}, {Precision::bf16, "bf16"}, {Precision::fp16, "fp16"}, {Precision::fp8, "fp8"}});
};
template <>
struct Spelling<Stage> {
  static constexpr auto values = std::to_array<std::pair<Stage, std::string_view>>(
      {{Stage::pretrain, "pretrain"}, {Stage::sft, "sft"}, {Stage::dpo, "dpo"}});
};
template <>
struct Spelling<AdapterType> {
  static constexpr auto values = std::to_array<std::pair<AdapterType, std::string_view>>(
      {{AdapterType::lora, "lora"}, {AdapterType::qlora, "qlora"}, {AdapterType::none, "none"}});
};
template <>
struct Spelling<Overflow> {
  static constexpr auto values = std::to_array<std::pair<Overflow, std::string_view>>({{Overflow::error, "error"},
                                                                                       {Overflow::drop, "drop"},
                                                                                       {Overflow::truncate, "truncate"},
                                                                                       {Overflow::split, "split"}});
};
template <>
struct Spelling<TrainOn> {
  static constexpr auto values = std::to_array<std::pair<TrainOn, std::string_view>>(
      {{TrainOn::assistant, "assistant"}, {TrainOn::last, "last"}, {TrainOn::all, "all"}});
};
template <>
struct Spelling<DatasetType> {
  static constexpr auto values = std::to_array<std::pair<DatasetType, std::string_view>>(
      {{DatasetType::chat, "chat"},
       {DatasetType::alpaca, "alpaca"},
       {DatasetType::prompt_completion, "prompt_completion"},
       {DatasetType::text, "text"},
       {DatasetType::fim, "fim"},
       {DatasetType::preference, "preference"},
       {DatasetType::unpaired_preference, "unpaired_preference"}});
};
template <>
struct Spelling<Scheduler> {
  static constexpr auto values =
      std::to_array<std::pair<Scheduler, std::string_view>>({{Scheduler::constant, "constant"},
                                                             {Scheduler::linear, "linear"},
                                                             {Scheduler::cosine, "cosine"},
                                                             {Scheduler::wsd, "wsd"}});
};
template <>
struct Spelling<OptimizerType> {
  static constexpr auto values =
      std::to_array<std::pair<OptimizerType, std::string_view>>({{OptimizerType::adamw, "adamw"},
                                                                 {OptimizerType::adamw_8bit, "adamw_8bit"},
                                                                 {OptimizerType::adafactor, "adafactor"},
                                                                 {OptimizerType::sgd, "sgd"}});
};
template <>
struct Spelling<Device> {
  static constexpr auto values = std::to_array<std::pair<Device, std::string_view>>(
      {{Device::automatic, "auto"}, {Device::cpu, "cpu"}, {Device::cuda, "cuda"}});
};
template <>
struct Spelling<ExportFormat> {
  static constexpr auto values =
      std::to_array<std::pair<ExportFormat, std::string_view>>({{ExportFormat::adapter, "adapter"},
                                                                {ExportFormat::hf, "hf"},
                                                                {ExportFormat::gguf, "gguf"},
                                                                {ExportFormat::gguf_lora, "gguf-lora"},
                                                                {ExportFormat::onnx, "onnx"}});
};
template <>
struct Spelling<Quant> {
  static constexpr auto values = std::to_array<std::pair<Quant, std::string_view>>({{Quant::f32, "f32"},
                                                                                    {Quant::f16, "f16"},
                                                                                    {Quant::bf16, "bf16"},
                                                                                    {Quant::q8_0, "q8_0"},
                                                                                    {Quant::q6_k, "q6_k"},
                                                                                    {Quant::q5_k_m, "q5_k_m"},
                                                                                    {Quant::q5_0, "q5_0"},
                                                                                    {Quant::q4_k_m, "q4_k_m"},
                                                                                    {Quant::q4_0, "q4_0"},
                                                                                    {Quant::int8, "int8"},
                                                                                    {Quant::int4, "int4"}});
};
template <>
struct Spelling<OnnxFlavour> {
  static constexpr auto values = std::to_array<std::pair<OnnxFlavour, std::string_view>>(
      {{OnnxFlavour::standard, "standard"}, {OnnxFlavour::genai, "genai"}});
};
template <>
struct Spelling<PreferenceLoss> {
  static constexpr auto values =
      std::to_array<std::pair<PreferenceLoss, std::string_view>>({{PreferenceLoss::sigmoid, "sigmoid"},
                                                                  {PreferenceLoss::ipo, "ipo"},
                                                                  {PreferenceLoss::hinge, "hinge"},
                                                                  {PreferenceLoss::orpo, "orpo"},
                                                                  {PreferenceLoss::simpo, "simpo"},
                                                                  {PreferenceLoss::kto, "kto"}});
};
template <>
struct Spelling<LoraInit> {
  static constexpr auto values = std::to_array<std::pair<LoraInit, std::string_view>>(
      {{LoraInit::standard, "standard"}, {LoraInit::pissa, "pissa"}});
};

template <>
struct Spelling<MergeBase> {
  static constexpr auto values = std::to_array<std::pair<MergeBase, std::string_view>>(
      {{MergeBase::dequantized, "dequantized"}, {MergeBase::original, "original"}});
};

template <>
struct Spelling<ServingCheck> {
  static constexpr auto values =
      std::to_array<std::pair<ServingCheck, std::string_view>>({{ServingCheck::vllm, "vllm"}});
};
template <>
struct Spelling<Strategy> {
  static constexpr auto values =
      std::to_array<std::pair<Strategy, std::string_view>>({{Strategy::ddp, "ddp"}, {Strategy::shard, "shard"}});
};

/// "gguf-lora" for ExportFormat::gguf_lora. Every value of the enum has a spelling.
template <class Enum>
constexpr std::string_view spelling(Enum value) {
  for (const auto& [known, name] : Spelling<Enum>::values)
    if (known == value) return name;
  return {};
}

}  // namespace tune
