#include "checkpoints/training/background_save.h"

#include <utility>

#include "checkpoints/training/retention.h"
#include "checkpoints/training/save.h"

namespace tune {

BackgroundSave::~BackgroundSave() {
  if (thread_.joinable()) thread_.join();
}

void BackgroundSave::begin(const std::filesystem::path& output_dir, const TrainingState& state,
                           const std::optional<AdapterConfig>& adapter, std::int64_t save_total_limit) {
  finish();
  copy_ = state;
  bytes_.resize(state.weights.size() + state.optimizer.size());  // kept from save to save
  auto own = bytes_.begin();
  for (auto* tensors : {&copy_.weights, &copy_.optimizer}) {
    for (NamedBytes& tensor : *tensors) {
      own->assign(tensor.bytes.begin(), tensor.bytes.end());
      tensor.bytes = *own++;
    }
  }
  running_ = true;
  thread_ = std::thread([this, output_dir, adapter, save_total_limit] {
    try {
      save_checkpoint(output_dir, copy_, adapter);
      retain_checkpoints(output_dir, save_total_limit);
    } catch (...) {
      failure_ = std::current_exception();
    }
    running_ = false;
  });
}

void BackgroundSave::finish() {
  if (thread_.joinable()) thread_.join();
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void BackgroundSave::check() {
  if (!running_) finish();
}

}  // namespace tune
