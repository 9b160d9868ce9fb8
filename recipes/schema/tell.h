#pragma once
#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace tune {

/// Text for a person, on stderr and at once. Where stderr is closed, full or a broken pipe the text is lost and nothing
/// else: no run ends because nobody listens. The only way to stderr.
void tell(std::string_view text) noexcept;

/// From now on this process tells nothing: of ranks that do the same, one is enough. speak_again() for what only this
/// one has to say.
void fall_silent() noexcept;
void speak_again() noexcept;

template <typename First, typename... Rest>
void tell(fmt::format_string<First, Rest...> format, First&& first, Rest&&... rest) {
  tell(fmt::format(format, std::forward<First>(first), std::forward<Rest>(rest)...));
}

}  // namespace tune
