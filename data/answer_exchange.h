#pragma once
#include <cstdint>
#include <vector>

#include "data/encode.h"

namespace tune {

/// Puts another row's answer behind each single answer (type unpaired_preference): what a model makes of answers that
/// don't belong to their prompts shows how far it is from the reference (KTO, Ethayarajh et al. 2024, section 4.1).
///
/// The rows of a source come in their order, those to one prompt one behind the other: they are given the answers to
/// the prompt before it, in turn. The rows to the first prompt wait for the second one, and take its first answer. So
/// which answer a row is given is a function of the file, and no more than the answers to two prompts are held.
class AnswerExchange {
 public:
  explicit AnswerExchange(const Encoder& encoder) : encoder_(encoder) {}

  /// single: fitted, one piece. Returns the rows that have both answers now, in order; as `overflow` says, those that
  /// are longer than max_length with both are refused or left out.
  std::vector<Encoded> add(Encoded single);

  /// Behind the last row of the source: what still waits, refused, because all rows have the same prompt.
  std::vector<Encoded> end();

 private:
  struct Answer {
    std::vector<std::int32_t> ids;
    std::vector<std::uint8_t> marks;
  };
  struct Prompt {
    std::vector<std::int32_t> ids;
    std::vector<Answer> answers;
  };
  Encoded joined(Encoded single, const Answer& other) const;

  const Encoder& encoder_;
  Prompt previous_, current_;
  std::vector<Encoded> waiting_;  // rows to the first prompt
};

}  // namespace tune
