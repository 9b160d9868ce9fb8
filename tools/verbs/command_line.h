#pragma once
#include <string>
#include <vector>

namespace tune {

/// What main does with its arguments (without the program's name): finds the verb, runs it, prints what went wrong once
/// on stderr. Returns the exit code; throws nothing.
int run_command_line(const std::vector<std::string>& arguments);

}  // namespace tune
