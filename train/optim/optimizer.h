#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "checkpoints/training/state.h"
#include "recipes/schema/recipe.h"
#include "train/model/decoder.h"

namespace tune {

/// Updates the masters of the parameters it was made for, rounds them into the values and zeroes the gradients.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual void step(double learning_rate) = 0;

  /// step() in parts: after begin_step() each parameter is updated once, those from `first` to before `end` together.
  /// Gradients are left as they may be.
  virtual void begin_step(double learning_rate) = 0;
  virtual void update(std::size_t first, std::size_t end) = 0;
  virtual void zero_gradients() = 0;

  /// Its tensors, on the host, fp32 or uint8, named "<parameter>.exp_avg" and so on; the masters are the checkpoint's
  /// weights, not its. The bytes stay valid until the next step.
  virtual std::vector<NamedBytes> state() = 0;

  /// Whether those bytes are the state itself, not a copy of it: on the CPU, or with train.offload_optimizer.
  virtual bool state_is_on_host() const = 0;

  /// Reads each tensor of state() by its name: `read` fills the destination, or throws.
  using Read = std::function<void(std::string_view name, std::span<std::byte> destination)>;
  virtual void restore(const Read& read, std::int64_t steps_done) = 0;
};

/// The parameters must outlive the optimizer.
std::unique_ptr<Optimizer> make_optimizer(std::vector<Parameter>& parameters, const TrainOptions& options);

}  // namespace tune
