#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "train/model/decoder.h"

namespace tune {

struct GenerateOptions {
  std::int64_t max_tokens = 128;
  double temperature = 0;  // 0 = greedy: always the most likely token, the first one on ties
  std::int64_t seed = 0;

  /// Where several ranks generate the same answer together: called with each token, which it may change. False ends the
  /// answer. A requested stop is its business then.
  std::function<bool(std::int32_t& token)> agree;
};

/// The ids that follow `prompt`, up to and without the first of `stop_ids`, max_tokens or a requested stop. Same
/// arguments, same ids. Going on beyond the positions that the model was made for is said on stderr, once.
/// Error{Fault::data} when the prompt is empty.
std::vector<std::int32_t> generate(Decoder& decoder, const std::vector<std::int32_t>& prompt,
                                   const std::vector<std::int32_t>& stop_ids, const GenerateOptions& options);

}  // namespace tune
