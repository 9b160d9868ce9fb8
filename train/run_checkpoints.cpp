#include "train/run_checkpoints.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/files/file_system.h"
#include "checkpoints/peft/adapter_folder.h"
#include "checkpoints/training/retention.h"
#include "checkpoints/training/save.h"
#include "recipes/schema/tell.h"

namespace tune {
namespace {

// Views of the masters' own memory, in bf16 where there are only values; on a GPU `host` keeps the copies alive.
std::vector<NamedBytes> trained_bytes(const std::vector<Parameter>& parameters, std::vector<at::Tensor>& host) {
  std::vector<NamedBytes> result;
  for (const Parameter& parameter : parameters) {
    const at::Tensor values = stored(parameter);
    host.push_back(values);
    result.push_back({.name = parameter.name,
                      .dtype = values.scalar_type() == at::kFloat ? "F32" : "BF16",
                      .shape = values.sizes().vec(),
                      .bytes = {static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()}});
  }
  return result;
}

void restore_parameter(Parameter& parameter, const LoadedCheckpoint& checkpoint) {
  const at::Tensor values = at::empty(stored_shape(parameter), parameter.master.scalar_type());
  checkpoint.read(parameter.name, {static_cast<std::byte*>(values.mutable_data_ptr()), values.nbytes()});
  restore(parameter, values);
}

}  // namespace

RunCheckpoints::RunCheckpoints(std::filesystem::path output_dir, const SaveOptions& options,
                               std::optional<AdapterConfig> adapter, World& world, Decoder& decoder,
                               Optimizer& optimizer)
    : folder_(std::move(output_dir)),
      options_(options),
      adapter_(std::move(adapter)),
      world_(world),
      decoder_(decoder),
      optimizer_(optimizer) {}

std::optional<LoadedCheckpoint> find_checkpoint(const std::filesystem::path& output_dir, const ResumeOption& resume,
                                                World& world) {
  if (resume.mode == ResumeOption::Mode::never) return std::nullopt;
  if (resume.mode == ResumeOption::Mode::folder) return load_checkpoint(resume.folder);
  std::optional<LoadedCheckpoint> checkpoint;
  const std::string chosen = world.from_first([&] {
    std::vector<std::string> warnings;
    checkpoint = find_newest_checkpoint(output_dir, &warnings);
    for (const std::string& warning : warnings) tell("warning: {}\n", warning);
    return checkpoint ? checkpoint->folder().string() : std::string();
  });
  if (!checkpoint && !chosen.empty()) checkpoint = load_checkpoint(chosen);
  return checkpoint;
}

void RunCheckpoints::restore_weights(const LoadedCheckpoint& checkpoint) {
  for (Parameter& parameter : decoder_.trained()) restore_parameter(parameter, checkpoint);
}

void RunCheckpoints::restore(const LoadedCheckpoint& checkpoint, std::int64_t updates) {
  restore_weights(checkpoint);
  optimizer_.restore(
      [&](std::string_view name, std::span<std::byte> destination) { checkpoint.read(name, destination); }, updates);
}

// host: keeps copies alive.
TrainingState RunCheckpoints::state(std::int64_t step, const std::map<std::string, std::string>& facts,
                                    std::vector<at::Tensor>& host) const {
  TrainingState state;
  state.step = step;
  state.weights = trained_bytes(decoder_.trained(), host);
  state.optimizer = optimizer_.state();
  state.facts = facts;
  return state;
}

void RunCheckpoints::require_disk(std::int64_t checkpoint_bytes, std::int64_t step, std::int64_t steps) const {
  const std::int64_t every = options_.save_steps > 0 ? options_.save_steps : steps;
  const std::int64_t to_come = (steps + every - 1) / every - step / every, limit = options_.save_total_limit;
  const auto there = static_cast<std::int64_t>(list_checkpoints(folder_).size());
  // The oldest goes when the newest is whole: for a moment there is one more than the limit.
  const std::int64_t more = limit > 0 ? std::min(to_come, std::max<std::int64_t>(limit + 1 - there, 1)) : to_come;
  if (step == steps || more < 1) return;
  constexpr std::int64_t kHeaders = 1 << 20;
  const auto bytes = static_cast<std::uint64_t>(more * (checkpoint_bytes + kHeaders));
  require_free_disk(folder_, bytes + bytes / 10, fmt::format("a run that adds {} checkpoints", more));
}

void RunCheckpoints::save(std::int64_t step, const std::map<std::string, std::string>& facts,
                          std::optional<std::int64_t> best) {
  saved_ = step;
  if (!decoder_.trains_slices() && !world_.rank().writes()) return;
  world_.enter(Phase::saving, step);
  unfinished_.emplace();
  background_.finish();  // it clears up behind itself, where the next one begins now
  const BackgroundSave::Write write = decoder_.trains_slices() ? part_writer(step, best) : whole_writer(best);
  if (!write) return;
  std::vector<at::Tensor> host;
  if (!adapter_ && optimizer_.state_is_on_host())
    write(state(step, facts, host));
  else
    background_.begin(state(step, facts, host), write);
}

BackgroundSave::Write RunCheckpoints::whole_writer(std::optional<std::int64_t> best) const {
  return [best, output = folder_, limit = options_.save_total_limit, adapter = adapter_](const TrainingState& state) {
    save_checkpoint(output, state, adapter);
    retain_checkpoints(output, limit, best);
  };
}

// Every rank of the first copy writes its slices into the folder that rank 0 makes, and names when all are there. Null
// for the other copies' ranks.
BackgroundSave::Write RunCheckpoints::part_writer(std::int64_t step, std::optional<std::int64_t> best) {
  std::shared_ptr<AtomicFolder> made;
  const std::string path = world_.from_first([&] {
    made = std::make_shared<AtomicFolder>(checkpoint_path(folder_, step));
    return made->path().string();
  });
  const std::int64_t number = world_.rank().number, count = world_.shard_count();
  if (number >= count) return nullptr;
  return [best, made, path, number, count, output = folder_,
          limit = options_.save_total_limit](const TrainingState& state) {
    save_part(path, state, number, count);
    if (!made) return;
    finish_parts(*made, state, count);
    retain_checkpoints(output, limit, best);
  };
}

void RunCheckpoints::write_final_adapter() const {
  AtomicFolder final_folder(folder_ / "final");
  std::vector<at::Tensor> host;
  write_adapter(final_folder.path(), *adapter_, trained_bytes(decoder_.trained(), host));
  final_folder.commit();
}

void RunCheckpoints::check() {
  background_.check();
  if (!background_.running()) unfinished_.reset();
}

}  // namespace tune
