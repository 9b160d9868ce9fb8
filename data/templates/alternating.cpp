#include "data/templates/alternating.h"

#include <fmt/format.h>

#include "recipes/schema/error.h"

namespace tune {

namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error{Fault::data, Place{}, what,
              "let user and assistant take turns, the user first, with at most one system message in front"};
}

}  // namespace

bool check_alternation(const std::vector<Message>& messages, std::string_view format) {
  if (messages.empty())
    refuse(fmt::format("the conversation is empty; the {} format begins with a user's message", format));
  const bool has_system = messages[0].role == "system";
  for (std::size_t i = has_system; i < messages.size(); ++i) {
    const std::string_view wanted = (i - has_system) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != wanted)
      refuse(fmt::format("message {} has role \"{}\"; in the {} format it must be {}", i + 1, messages[i].role, format,
                         wanted));
  }
  return has_system;
}

}  // namespace tune
