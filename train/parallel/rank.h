#pragma once
#include <cstdint>
#include <string>

namespace tune {

/// Which of the processes that train one model together this is. One process a GPU.
struct Rank {
  std::int64_t number = 0, count = 1;              // of all hosts
  std::int64_t local_number = 0, local_count = 1;  // of those on this host
  std::string master_address = "127.0.0.1";        // of rank 0, which keeps the store that all meet at
  std::int64_t master_port = 29500;
  std::string source;  // who says so, for messages: "RANK and WORLD_SIZE"; empty: nobody, one process

  bool writes() const { return number == 0; }
};

/// From RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT (torchrun's; our own launcher sets
/// them, too), else from SLURM_PROCID and its kin where srun started several tasks; one process where neither is set.
/// Error{Fault::recipe} names a variable that is missing beside others, is no number or contradicts another.
Rank rank_from_environment();

/// "node1" of Slurm's "node[1-3,7],login", "n01-ib" of "n[01-16]-ib": the first host of a list.
std::string first_host(const std::string& node_list);

std::string host_name();

/// "rank 2 of 4 (node1, pid 4711)"
std::string describe(std::int64_t number, std::int64_t count, const std::string& host, std::int64_t pid);

}  // namespace tune
