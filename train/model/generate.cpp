#include "train/model/generate.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "train/kernels/matmul.h"
#include "train/stop.h"

namespace tune {

std::vector<std::int32_t> generate(Decoder& decoder, const std::vector<std::int32_t>& prompt,
                                   const std::vector<std::int32_t>& stop_ids, const GenerateOptions& options) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const std::int64_t context = decoder.config().max_position_embeddings;
  const auto asked = static_cast<std::int64_t>(prompt.size());
  if (prompt.empty()) throw Error{Fault::data, {}, "the prompt is empty", "give at least one token"};
  auto generator = at::detail::createCPUGenerator(static_cast<std::uint64_t>(options.seed));
  KeyValueCache cache;
  std::vector<std::int32_t> answer, next = prompt;
  bool warned = false;
  while (static_cast<std::int64_t>(answer.size()) < options.max_tokens && (options.agree || stop_requested() == 0)) {
    if (asked + static_cast<std::int64_t>(answer.size()) > context && !std::exchange(warned, true))
      tell(
          "warning: prompt and answer have more than the {} tokens that the model was made for "
          "(max_position_embeddings); positions beyond that are extrapolated\n",
          context);
    const at::Tensor hidden = decoder.forward_cached(next, cache);
    const at::Tensor scores =
        matmul_nt(hidden.narrow(0, hidden.size(0) - 1, 1), decoder.head_weight()).to(at::kFloat).cpu();
    const std::int64_t id =
        options.temperature > 0
            ? at::multinomial(at::softmax(scores / options.temperature, -1), 1, false, generator).item<std::int64_t>()
            : scores.argmax().item<std::int64_t>();
    auto token = static_cast<std::int32_t>(id);
    if (options.agree && !options.agree(token)) break;
    if (std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end()) break;
    answer.push_back(token);
    next = {token};
  }
  return answer;
}

}  // namespace tune
