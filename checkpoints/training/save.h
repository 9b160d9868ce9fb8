#pragma once
#include <filesystem>
#include <optional>

#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/peft/adapter_config.h"
#include "checkpoints/training/state.h"

namespace tune {

/// Writes output_dir/checkpoint-<step>, visible under that name only when all of it is on disk: the weights (as a PEFT
/// adapter when `adapter` is given, else model shards), optimizer.safetensors, state.json, manifest.json last.
/// Checkpoints of later steps, which are damaged or belong to a continuation that was given up, are removed afterwards.
/// Returns the folder. Error{Fault::running} when the disk is full or refuses; earlier checkpoints are untouched then.
std::filesystem::path save_checkpoint(const std::filesystem::path& output_dir, const TrainingState& state,
                                      const std::optional<AdapterConfig>& adapter);

/// The same by several processes, which see one file system. Process `number` of `count` writes its slices
/// (slice_name.h) into `folder`, on disk when this returns, as part-<number + 1>-of-<count>.safetensors; beside it lies
/// its checksum.
void save_part(const std::filesystem::path& folder, const TrainingState& state, std::int64_t number,
               std::int64_t count);

/// One of them makes the folder and, its own part written, waits for the others', adds state.json and the manifest and
/// gives the folder its name.
void finish_parts(AtomicFolder& folder, const TrainingState& state, std::int64_t count);

}  // namespace tune
