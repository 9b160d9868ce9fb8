#pragma once
#include <filesystem>
#include <optional>

#include "checkpoints/peft/adapter_config.h"
#include "checkpoints/training/state.h"

namespace tune {

/// Writes output_dir/checkpoint-<step>, visible under that name only when all of it is on disk: the weights (as a PEFT
/// adapter when `adapter` is given, else model shards), optimizer.safetensors, state.json, manifest.json last.
/// Checkpoints of later steps, which are damaged or belong to a continuation that was given up, are removed afterwards.
/// Returns the folder. Error{Fault::running} when the disk is full or refuses; earlier checkpoints are untouched then.
std::filesystem::path save_checkpoint(const std::filesystem::path& output_dir, const TrainingState& state,
                                      const std::optional<AdapterConfig>& adapter);

}  // namespace tune
