#pragma once
#include <cstdint>
#include <vector>

#include "train/model/decoder.h"

namespace tune {

struct GenerateOptions {
  std::int64_t max_tokens = 128;
  double temperature = 0;  // 0 = greedy: always the most likely token, the first one on ties
  std::int64_t seed = 0;
};

/// The ids that follow `prompt`, up to and without the first of `stop_ids`, the end of the model's context or a
/// requested stop. Same arguments, same ids. Error{Fault::data} when the prompt alone fills the context.
std::vector<std::int32_t> generate(Decoder& decoder, const std::vector<std::int32_t>& prompt,
                                   const std::vector<std::int32_t>& stop_ids, const GenerateOptions& options);

}  // namespace tune
