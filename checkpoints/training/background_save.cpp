#include "checkpoints/training/background_save.h"

#include <utility>

namespace tune {

BackgroundSave::~BackgroundSave() {
  if (thread_.joinable()) thread_.join();
}

void BackgroundSave::begin(const TrainingState& state, Write write) {
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
  thread_ = std::thread([this, write = std::move(write)] {
    try {
      write(copy_);
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
