#include <malloc.h>

#include <csignal>
#include <cstdlib>

#include "tools/verbs/command_line.h"

namespace {

// By default glibc gives big blocks back to the kernel and faults them in again, zeroed, at every step: half of a CPU
// trainer's time. From here on freed memory is kept and used again.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
  mallopt(M_ARENA_MAX, 2);
}

// oneDNN prepares a product for every shape and keeps the last 1,024, 0.7 MB each; micro-batches of ever different
// numbers of tokens would fill that. A step has some thirty.
void keep_few_prepared_products() {
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64", 0);
  setenv("LRU_CACHE_CAPACITY", "64", 0);  // ATen's own, of their descriptions
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  keep_few_prepared_products();
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe must not end a training run
  return tune::run_command_line({argv + 1, argv + argc});
}
