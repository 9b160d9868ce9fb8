#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "train/model/decoder.h"

namespace tune {

/// Dynamic loss scaling (Micikevicius et al. 2018, section 3.2) by the rule and with the numbers of
/// torch.amp.GradScaler. The backward pass is that of scale * loss, whose gradients fp16 can hold where those of the
/// loss would vanish. Where they overflow, the step is skipped and the scale halved; after 2,000 good steps in a row it
/// is doubled. A power of two: dividing by it loses nothing.
class LossScaler {
 public:
  double scale() const { return scale_; }
  std::int64_t skipped_steps() const { return skipped_steps_; }

  /// Divides the gradients by the scale.
  void unscale(std::vector<Parameter>& parameters) const;

  /// The gradients of a step were finite.
  void good_step();
  /// They were not. False where the scale is 1 already: a smaller one would not be an answer, and nothing changes.
  [[nodiscard]] bool skip_step();

  /// For a checkpoint's facts, and from them.
  void add_to(std::map<std::string, std::string>& facts) const;
  void restore(const std::map<std::string, std::string>& facts);

 private:
  double scale_ = 65536;
  std::int64_t good_steps_ = 0;  // since the scale was changed
  std::int64_t skipped_steps_ = 0;
};

}  // namespace tune
