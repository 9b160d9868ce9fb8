#include "tools/verbs/launch_argument.h"

#include <fmt/format.h>

#include <algorithm>

#include "recipes/schema/error.h"
#include "train/device.h"

namespace tune {

void add_launch_options(boost::program_options::options_description& options) {
  namespace po = boost::program_options;
  options.add_options()("nproc", po::value<std::int64_t>(),
                        "ranks on this host; default: one a visible GPU, at most one a row of a step")(
      "nnodes", po::value<std::int64_t>()->default_value(1), "hosts with so many ranks each; not needed with Slurm")(
      "node-rank", po::value<std::int64_t>()->default_value(0), "which of the hosts this is, from 0")(
      "master-addr", po::value<std::string>()->default_value("127.0.0.1"), "host of rank 0")(
      "master-port", po::value<std::int64_t>()->default_value(0), "where the ranks meet; 0: a free one of this host");
}

std::vector<std::string> started_with(const std::string& verb, const std::vector<std::string>& arguments) {
  std::vector<std::string> kept = {verb};
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string name = arguments[i].substr(0, arguments[i].find('='));
    const bool launches = name == "--nproc" || name == "--nnodes" || name == "--node-rank" || name == "--master-addr" ||
                          name == "--master-port";
    if (!launches) kept.push_back(arguments[i]);
    if (launches && name == arguments[i]) ++i;  // its value is an argument of its own
  }
  return kept;
}

LaunchOptions launch_options(const boost::program_options::variables_map& values, Device device, std::int64_t most,
                             const Rank& rank) {
  const auto number = [&](const char* name) { return values[name].as<std::int64_t>(); };
  LaunchOptions options{.ranks = values.count("nproc") != 0 ? number("nproc") : 1,
                        .hosts = number("nnodes"),
                        .host_number = number("node-rank"),
                        .master_address = values["master-addr"].as<std::string>(),
                        .master_port = number("master-port")};
  const auto refuse = [](const std::string& what, const std::string& remedy) {
    throw Error{Fault::recipe, {}, what, remedy};
  };
  const bool asked = values.count("nproc") != 0 || options.hosts > 1;
  if (asked && !rank.source.empty())
    refuse(fmt::format("--nproc or --nnodes is given, but {} name rank {} of {} already", rank.source, rank.number,
                       rank.count),
           "leave the options out: the launcher has started the ranks");
  if (options.ranks < 1) refuse(fmt::format("--nproc is {}", options.ranks), "start at least one rank");
  if (options.hosts < 1 || options.host_number < 0 || options.host_number >= options.hosts)
    refuse(fmt::format("--node-rank {} of --nnodes {}", options.host_number, options.hosts), "hosts count from 0");
  if (options.hosts > 1 && (values["master-addr"].defaulted() || options.master_port == 0))
    refuse("several hosts have to meet somewhere", "give all of them the same --master-addr and --master-port");
  if (values.count("nproc") == 0 && rank.source.empty() && device != Device::cpu)
    options.ranks = std::clamp<std::int64_t>(visible_gpus(), 1, most);
  return options;
}

}  // namespace tune
