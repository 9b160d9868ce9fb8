#include <ATen/Context.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include "tools/verbs/verbs.h"

namespace tune {

int print_version() {
  fmt::print("tune {}\nLibTorch {}\nCUDA {}\n", TUNE_VERSION, TORCH_VERSION, at::hasCUDA() ? "yes" : "no");
  return 0;
}

}  // namespace tune
