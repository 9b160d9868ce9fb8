#include "train/parallel/rank.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <optional>

#include "recipes/schema/error.h"

namespace tune {
namespace {

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? std::nullopt : std::optional<std::string>(value);
}

[[noreturn]] void refuse(const std::string& what, const std::string& remedy) {
  throw Error{Fault::recipe, {"environment"}, what, remedy};
}

std::optional<std::int64_t> number(const char* name) {
  const std::optional<std::string> text = variable(name);
  if (!text) return std::nullopt;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < 0)
    refuse(fmt::format("{} is \"{}\", not a number", name, *text), "unset it, or let the launcher set it");
  return value;
}

std::int64_t needed(const char* name, const char* because) {
  const std::optional<std::int64_t> value = number(name);
  if (!value)
    refuse(fmt::format("{} is set, but {} is not", because, name), "start with tune run --nproc, srun or torchrun");
  return *value;
}

Rank checked(const Rank& rank) {
  if (rank.count < 1 || rank.number >= rank.count)
    refuse(fmt::format("{} name rank {} of {}", rank.source, rank.number, rank.count), "ranks count from 0");
  if (rank.local_count < 1 || rank.local_number >= rank.local_count)
    refuse(fmt::format("{} name local rank {} of {}", rank.source, rank.local_number, rank.local_count),
           "local ranks count from 0");
  if (rank.master_port < 1 || rank.master_port > 65535)
    refuse(fmt::format("the master's port is {}", rank.master_port), "set MASTER_PORT to 1024 ... 65535");
  return rank;
}

Rank from_torchrun() {
  Rank rank{.number = needed("RANK", "WORLD_SIZE"), .count = needed("WORLD_SIZE", "RANK")};
  rank.source = "RANK and WORLD_SIZE";
  rank.local_number = number("LOCAL_RANK").value_or(rank.number);
  rank.local_count = number("LOCAL_WORLD_SIZE").value_or(rank.local_number == rank.number ? rank.count : 1);
  rank.master_address = variable("MASTER_ADDR").value_or(rank.master_address);
  rank.master_port = number("MASTER_PORT").value_or(rank.master_port);
  return checked(rank);
}

// "2(x3),1" -> tasks on this node, the SLURM_NODEID-th
std::int64_t tasks_on_this_node(std::int64_t tasks) {
  const std::optional<std::string> list = variable("SLURM_STEP_TASKS_PER_NODE");
  const std::int64_t node = number("SLURM_NODEID").value_or(0);
  if (!list) return tasks;
  std::int64_t first = 0;
  for (const char* at = list->c_str(); *at != '\0';) {
    char* end = nullptr;
    const std::int64_t count = std::strtoll(at, &end, 10);
    const std::int64_t times = *end == '(' ? std::strtoll(end + 2, &end, 10) : 1;
    if (*end == ')') ++end;
    if (node < first + times) return count;
    first += times;
    if (*end != ',') break;
    at = end + 1;
  }
  return tasks;
}

Rank from_slurm(std::int64_t tasks) {
  Rank rank{.number = needed("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), .count = tasks};
  rank.source = "Slurm's variables";
  rank.local_number = number("SLURM_LOCALID").value_or(0);
  rank.local_count = tasks_on_this_node(tasks);
  const std::optional<std::string> nodes =
      variable("SLURM_STEP_NODELIST") ? variable("SLURM_STEP_NODELIST") : variable("SLURM_JOB_NODELIST");
  rank.master_address = variable("MASTER_ADDR").value_or(nodes ? first_host(*nodes) : rank.master_address);
  // Jobs that share a node must not meet at the same port, nor the steps of one job.
  constexpr std::int64_t kFirst = 20000, kPorts = 20000, kSteps = 7;
  const std::int64_t job = number("SLURM_JOB_ID").value_or(0), step = number("SLURM_STEP_ID").value_or(0);
  rank.master_port = number("MASTER_PORT").value_or(kFirst + (job * kSteps + step) % kPorts);
  return checked(rank);
}

}  // namespace

Rank rank_from_environment() {
  if (variable("RANK") || variable("WORLD_SIZE")) return from_torchrun();
  // A batch script itself has SLURM_PROCID, too: only srun's tasks have a step with its number of tasks.
  const std::optional<std::int64_t> tasks = number("SLURM_STEP_NUM_TASKS");
  if (tasks && *tasks > 1 && variable("SLURM_PROCID")) return from_slurm(*tasks);
  return {};
}

std::string first_host(const std::string& node_list) {
  const std::size_t open = node_list.find_first_of("[,");
  if (open == std::string::npos || node_list[open] == ',') return node_list.substr(0, open);
  const std::size_t end = node_list.find_first_of(",-]", open), close = node_list.find(']', open);
  if (close == std::string::npos) return node_list;
  const std::size_t next = node_list.find(',', close);
  return node_list.substr(0, open) + node_list.substr(open + 1, end - open - 1) +
         node_list.substr(close + 1, next == std::string::npos ? next : next - close - 1);
}

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

std::string describe(std::int64_t number, std::int64_t count, const std::string& host, std::int64_t pid) {
  return fmt::format("rank {} of {} ({}, pid {})", number, count, host, pid);
}

}  // namespace tune
