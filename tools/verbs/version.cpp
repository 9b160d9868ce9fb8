#include <ATen/Context.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include "tools/verbs/verbs.h"
#include "train/revision.h"

namespace tune {

std::string program_version() { return fmt::format("{} ({}), LibTorch {}", TUNE_VERSION, kRevision, TORCH_VERSION); }

int print_version() {
  fmt::print("tune {} ({})\nLibTorch {}\nCUDA {}\n", TUNE_VERSION, kRevision, TORCH_VERSION,
             at::globalContext().hasCUDART() ? "yes" : "no");
  return 0;
}

}  // namespace tune
