#include "tools/verbs/as_rank.h"

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "recipes/schema/tell.h"
#include "tools/verbs/complaint.h"
#include "train/device.h"

namespace tune {

int as_rank(const Rank& rank, const std::filesystem::path& output_dir, const std::function<int(World&)>& work) {
  choose_gpu(rank.local_number);
  World world;
  if (rank.count == 1) return work(world);
  try {
    return work(world);
  } catch (...) {
    const Complaint complaint = complaint_of(std::current_exception());
    std::fflush(stdout);
    if (world.claims_failure(output_dir, complaint.exit_code)) {
      speak_again();
      tell("tune: rank {} of {} ({}): {}\n", rank.number, rank.count, host_name(), complaint.text);
    }
    // Without the collectives' farewells, which wait for ranks that may be gone.
    std::_Exit(complaint.exit_code);
  }
}

}  // namespace tune
