#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tune {

/// "64" or "-1": digits only, no unit, no '_', no point. Nothing for anything else or beyond 64 bits.
std::optional<std::int64_t> parse_whole_number(std::string_view text);

/// "2.0e-4", "2e-4", "0.0002", "1": finite decimal numbers. Nothing for anything else.
std::optional<double> parse_number(std::string_view text);

/// "24GiB", "512 MiB", "24GB", "1.5GiB", "1000" (bytes): B, KB MB GB TB (powers of 1000), KiB MiB GiB TiB (of 1024).
/// Error{Fault::recipe} naming `place` for anything else, for a negative number and from 2^63 bytes on.
std::int64_t parse_bytes(std::string_view text, const std::string& place);

/// The same for a device: less than 1 MB is an Error as well, for "24" means gigabytes to whoever types it.
std::int64_t parse_device_memory(std::string_view text, const std::string& place);

/// The same for a file of a model that is split: at least 1 MB, so that "5" isn't taken for bytes.
std::int64_t parse_shard_size(std::string_view text, const std::string& place);

/// The text with every ${NAME} replaced by that environment variable; $${ stands for ${. Never a shell.
/// On failure `problem` says why (variable not set, unclosed brace, control character in the value).
struct Expanded {
  std::string text;
  std::string problem;  // empty when all went well
  std::string remedy;
};
Expanded expand_environment(std::string_view text);

}  // namespace tune
