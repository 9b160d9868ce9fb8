#include "train/sample_answers.h"

#include <nlohmann/json.hpp>

#include "train/stop.h"

namespace tune {
namespace {

// Where no rank has all weights: each of them generates all answers, token by token what rank 0 makes of it.
std::optional<std::vector<std::string>> answers_together(Decoder& decoder, const Inputs& inputs,
                                                         const EvalOptions& options, GenerateOptions sampling,
                                                         World& world) {
  std::vector<std::string> answers;
  bool stopped = false;
  sampling.agree = [&](std::int32_t& token) {
    const std::vector<double> sums =
        world.sum({stop_requested() != 0 ? 1.0 : 0.0, world.rank().number == 0 ? static_cast<double>(token) : 0.0});
    token = static_cast<std::int32_t>(sums[1]);
    stopped = sums[0] > 0;
    return !stopped;
  };
  for (const std::string& prompt : options.sample_prompts) {
    answers.push_back(answer(decoder, inputs, prompt, sampling));
    if (stopped) return std::nullopt;
  }
  return answers;
}

}  // namespace

std::optional<std::vector<std::string>> sample_answers(Decoder& decoder, const Inputs& inputs,
                                                       const EvalOptions& options, std::int64_t seed, World& world) {
  const GenerateOptions sampling{options.sample_max_tokens, 0.0, seed, {}};
  if (options.sample_prompts.empty()) return std::vector<std::string>();
  if (decoder.has_keeper()) return answers_together(decoder, inputs, options, sampling, world);
  const auto ranks = static_cast<std::size_t>(world.rank().count);
  std::vector<std::string> mine;
  for (auto i = static_cast<std::size_t>(world.rank().number); i < options.sample_prompts.size(); i += ranks) {
    if (stop_requested() != 0) break;
    mine.push_back(answer(decoder, inputs, options.sample_prompts[i], sampling));
  }
  std::vector<std::vector<std::string>> by_rank;
  for (const std::string& text :
       world.from_each(stop_requested() != 0
                           ? std::string()
                           : nlohmann::json(mine).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))) {
    if (text.empty()) return std::nullopt;
    by_rank.push_back(nlohmann::json::parse(text).get<std::vector<std::string>>());
  }
  std::vector<std::string> answers;
  for (std::size_t i = 0; i < options.sample_prompts.size(); ++i) answers.push_back(by_rank[i % ranks][i / ranks]);
  return answers;
}

}  // namespace tune
