#include "train/parallel/world.h"

#include <ATen/ATen.h>
#include <c10/util/Logging.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "recipes/schema/error.h"
#include "train/parallel/backend.h"

namespace tune {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
using Works = std::vector<c10::intrusive_ptr<c10d::Work>>;

constexpr auto kLook = 50ms;
constexpr auto kFarewell = 30s;
// Behind the watch's own timeout, which has better words.
constexpr auto kLastResort = std::chrono::hours(24);

std::vector<std::uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

// c10d warns with a stack trace of each connection that ends, also where it was meant to or where we say it better.
void quieten_c10d() {
  ::setenv("TORCH_CPP_LOG_LEVEL", "FATAL", 0);
  c10::initLogging();
}

c10::intrusive_ptr<c10d::Store> open_store(const Rank& rank, std::chrono::seconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(rank.master_port);
  options.isServer = rank.number == 0;
  options.numWorkers = static_cast<std::size_t>(rank.count);
  options.waitWorkers = false;  // we wait ourselves, and know who is missing
  options.timeout = timeout;
  try {
    return c10::make_intrusive<c10d::TCPStore>(rank.master_address, options);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    if (rank.number == 0)
      throw Error{
          Fault::recipe,
          {},
          fmt::format("rank 0 can't listen at port {} ({})", rank.master_port,
                      text.find("in use") != std::string::npos ? "it is taken" : text.substr(0, text.find('\n'))),
          "set MASTER_PORT to a free port, the same for all ranks"};
    throw Error{Fault::recipe,
                {},
                fmt::format("rank {} of {} ({}) can't reach rank 0 at {}:{} within {} s", rank.number, rank.count,
                            host_name(), rank.master_address, rank.master_port, timeout.count()),
                "look whether rank 0 has started, at MASTER_ADDR and MASTER_PORT, and at firewalls between the hosts"};
  }
}

// The first lines that differ, without their indentation.
std::pair<std::string, std::string> first_difference(const std::string& one, const std::string& other) {
  std::istringstream ones(one), others(other);
  std::string a, b;
  while (true) {
    const bool more_a = static_cast<bool>(std::getline(ones, a)), more_b = static_cast<bool>(std::getline(others, b));
    if (!more_a) a.clear();
    if (!more_b) b.clear();
    if (a != b || (!more_a && !more_b)) break;
  }
  const auto trimmed = [](const std::string& line) {
    const std::size_t begin = line.find_first_not_of(' ');
    return begin == std::string::npos ? std::string() : line.substr(begin);
  };
  return {trimmed(a), trimmed(b)};
}

}  // namespace

struct World::Parts {
  c10::intrusive_ptr<c10d::Store> store;
  std::unique_ptr<Watch> watch;
  struct Group {
    c10::intrusive_ptr<c10d::Backend> host, device;  // the same on the CPU
    c10d::Backend& backend(const at::Tensor& values) const { return values.is_cuda() ? *device : *host; }
  };
  Group all, shards, copies;  // the last two with shard_size only: of one copy, and of one slice in all copies
  std::int64_t texts = 0;

  Group connect(const std::string& prefix, Rank rank, std::int64_t number, std::int64_t count, bool cuda);
  Pending pending(const char* what, const std::function<Works()>& begin);
  std::string read(const std::string& key) {
    const std::vector<std::uint8_t> bytes = store->get(key);
    return {bytes.begin(), bytes.end()};
  }
  bool wait_for(const std::string& key, std::chrono::seconds timeout) {
    for (const auto start = Clock::now(); !store->check({key}); std::this_thread::sleep_for(kLook))
      if (Clock::now() - start > timeout) return false;
    return true;
  }
  std::int64_t roll_call(const Rank& rank, const std::map<std::string, std::string>& facts,
                         std::chrono::seconds timeout);
};

// Who is here, and does everybody mean the same run? Returns the number of hosts.
std::int64_t World::Parts::roll_call(const Rank& rank, const std::map<std::string, std::string>& facts,
                                     std::chrono::seconds timeout) {
  const auto key = [](std::int64_t number) { return fmt::format("here/{}", number); };
  Json mine = facts;
  mine["host"] = host_name();
  mine["pid"] = ::getpid();
  store->set(key(rank.number), bytes_of(mine.dump()));
  const auto start = Clock::now();
  std::vector<std::int64_t> missing;
  std::vector<Json> said(static_cast<std::size_t>(rank.count));
  try {
    for (std::int64_t i = 0; i < rank.count; ++i) {
      const auto waited = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - start);
      if (wait_for(key(i), std::max(timeout - waited, 0s)))
        said[static_cast<std::size_t>(i)] = Json::parse(read(key(i)));
      else
        missing.push_back(i);
    }
  } catch (const std::exception& error) {  // rank 0 has ended, for a reason that it has told
    watch->broken("the roll call", error.what());
  }
  if (!missing.empty())
    throw Error{Fault::recipe,
                {},
                fmt::format("rank{} {} of {} did not come within {} s", missing.size() == 1 ? "" : "s",
                            fmt::join(missing, ", "), rank.count, timeout.count()),
                "look at the output of those ranks, and at WORLD_SIZE and RANK (distributed.timeout_seconds: how long "
                "to wait)"};
  const Json& first = said.front();
  std::set<std::string> hosts = {first.at("host").get<std::string>()};
  for (std::int64_t i = 1; i < rank.count; ++i) {
    const Json& other = said[static_cast<std::size_t>(i)];
    hosts.insert(other.at("host").get<std::string>());
    for (const auto& [fact, value] : facts) {
      if (first.at(fact) == other.at(fact)) continue;
      const auto [theirs, rank_0s] =
          first_difference(other.at(fact).get<std::string>(), first.at(fact).get<std::string>());
      throw Error{
          Fault::recipe,
          {},
          fmt::format("{} has another {} than rank 0 ({}): \"{}\", not \"{}\"",
                      describe(i, rank.count, other.at("host").get<std::string>(), other.at("pid").get<std::int64_t>()),
                      fact, first.at("host").get<std::string>(), theirs, rank_0s),
          "start all ranks with the same program, recipe and options"};
    }
  }
  return static_cast<std::int64_t>(hosts.size());
}

World::World() = default;

void World::meet(const Rank& rank, const DistributedOptions& options, const std::string& device,
                 const std::filesystem::path& output_dir, const std::map<std::string, std::string>& facts) {
  rank_ = rank;
  if (alone()) return;
  const std::chrono::seconds timeout(options.timeout_seconds);
  parts_ = std::make_unique<Parts>();
  Parts& p = *parts_;
  quieten_c10d();
  p.store = open_store(rank, timeout);
  if (rank.number == 0) {
    const char* given = std::getenv(kRunVariable);
    const std::string run = given != nullptr ? given : fmt::format("{:08x}", std::random_device()());
    std::error_code ignored;
    std::filesystem::remove_all(output_dir / "ranks", ignored);
    p.store->set("run", bytes_of(run));
  }
  if (!p.wait_for("run", timeout))
    throw Error{Fault::recipe, {}, "rank 0 keeps the store, but doesn't go on", "look at its output"};
  p.watch = std::make_unique<Watch>(output_dir, p.read("run"), rank, timeout);
  hosts_ = p.roll_call(rank, facts, timeout);
  const bool cuda = device != "cpu";
  shard_count_ = options.shard_size > 0 ? options.shard_size : rank.count;
  if (rank.count % shard_count_ != 0)
    throw Error{Fault::recipe,
                {},
                fmt::format("distributed.shard_size is {}, which doesn't divide {} ranks", shard_count_, rank.count),
                "every copy of the model needs as many"};
  p.watch->waiting("the first connection", [&] {
    p.all = p.connect("", rank, rank.number, rank.count, cuda);
    p.shards = p.copies = p.all;
    if (copies() == 1) return;
    const std::int64_t copy = rank.number / shard_count_;
    p.shards = p.connect(fmt::format("copy {}", copy), rank, shard_number(), shard_count_, cuda);
    p.copies = p.connect(fmt::format("slice {}", shard_number()), rank, copy, copies(), cuda);
  });
}

// As rank `number` of `count`, with those that give the same prefix.
World::Parts::Group World::Parts::connect(const std::string& prefix, Rank rank, std::int64_t number, std::int64_t count,
                                          bool cuda) {
  rank.number = number;
  rank.count = count;
  const auto own = c10::make_intrusive<c10d::PrefixStore>(prefix, store);
  Group group;
  group.host = make_gloo(own, rank, kLastResort);
  group.device = cuda ? make_nccl(own, rank, kLastResort) : group.host;
  return group;
}

// The store goes with rank 0, which waits until nobody reads in it any more.
World::~World() {
  if (!parts_) return;
  const auto key = [](std::int64_t number) { return fmt::format("farewell/{}", number); };
  try {
    parts_->store->set(key(rank_.number), bytes_of("."));
    for (std::int64_t i = 1; rank_.number == 0 && i < rank_.count; ++i) parts_->wait_for(key(i), kFarewell);
  } catch (const std::exception&) {  // it is gone: nobody waits for us either
  }
}

void World::enter(Phase phase, std::int64_t step) {
  if (parts_) parts_->watch->enter(phase, step);
}

bool World::claims_failure(const std::filesystem::path& output_dir, int code) const {
  return parts_ && parts_->watch ? parts_->watch->claim(code) : claims_failure_of_launch(output_dir, code);
}

void World::leave_the_word() const {
  if (parts_) parts_->watch->leave_the_word();
}

std::vector<double> World::sum(std::vector<double> values) {
  if (alone()) return values;
  std::vector<at::Tensor> tensors = {
      at::from_blob(values.data(), {static_cast<std::int64_t>(values.size())}, at::kDouble)};
  parts_->watch->waiting("the sum of losses", [&] { parts_->all.host->allreduce(tensors)->wait(); });
  return values;
}

void World::Pending::wait() {
  if (wait_) wait_();
}

World::Pending World::Parts::pending(const char* what, const std::function<Works()>& begin) {
  Works works;
  watch->waiting(what, [&] { works = begin(); });
  Pending pending;
  pending.wait_ = [this, what, works = std::move(works)] {
    watch->waiting(what, [&] {
      for (const auto& work : works) work->wait();
    });
  };
  return pending;
}

World::Pending World::begin_sum(const at::Tensor& values) {
  if (alone()) return {};
  std::vector<at::Tensor> tensors = {values};
  return parts_->pending("the sum of gradients", [&] { return Works{parts_->all.backend(values).allreduce(tensors)}; });
}

World::Pending World::begin_sum_over_copies(const at::Tensor& values) {
  if (copies() == 1) return {};
  std::vector<at::Tensor> tensors = {values};
  return parts_->pending("the sum of gradients",
                         [&] { return Works{parts_->copies.backend(values).allreduce(tensors)}; });
}

World::Pending World::begin_gather(const at::Tensor& whole, const at::Tensor& part) {
  if (alone()) {
    whole.copy_(part);
    return {};
  }
  const std::int64_t each = part.numel();
  at::Tensor mine = whole.narrow(0, shard_number() * each, each), all = whole;
  mine.copy_(part);
  return parts_->pending("the gathering of weights", [&] {
    if (whole.is_cuda()) return Works{gather_slices(*parts_->shards.device, all, mine)};
    // Gloo's own gather goes through a copy of the whole and takes several times as long as these.
    Works works;
    for (std::int64_t owner = 0; owner < shard_count_; ++owner) {
      std::vector<at::Tensor> slice = {whole.narrow(0, owner * each, each)};
      c10d::BroadcastOptions options;
      options.rootRank = owner;
      works.push_back(parts_->shards.host->broadcast(slice, options));
    }
    return works;
  });
}

World::Pending World::begin_sum_of_slices(const at::Tensor& values) {
  if (alone()) return {};
  const std::int64_t each = values.numel() / shard_count_;
  at::Tensor mine = values.narrow(0, shard_number() * each, each), all = values;
  if (values.is_cuda())
    return parts_->pending("the sum of gradients",
                           [&] { return Works{sum_slices(*parts_->shards.device, all, mine)}; });
  // Gloo's own sends up to twice as much as there is. Here every rank gets all versions of its slice, and adds them up
  // in the order of the ranks.
  at::Tensor received = at::empty_like(values);
  std::vector<std::int64_t> equal;
  Pending pending = parts_->pending(
      "the sum of gradients", [&] { return Works{parts_->shards.host->alltoall_base(received, all, equal, equal)}; });
  pending.wait_ = [arrived = std::move(pending.wait_), received, mine, each, count = shard_count_]() mutable {
    arrived();
    mine.copy_(received.narrow(0, 0, each));
    for (std::int64_t rank = 1; rank < count; ++rank) mine.add_(received.narrow(0, rank * each, each));
  };
  return pending;
}

void World::broadcast(const at::Tensor& values, std::int64_t root) {
  if (alone()) return;
  std::vector<at::Tensor> tensors = {values};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  parts_->watch->waiting("a broadcast", [&] {
    parts_->all.backend(values).broadcast(tensors, options)->wait();
    if (values.is_cuda()) values.view(-1)[0].item();  // wait() ends when it is enqueued
  });
}

std::string World::from_first(const std::function<std::string()>& text) {
  if (alone()) return text();
  const std::string key = fmt::format("text/{}", parts_->texts++);
  if (rank_.number == 0) {
    const std::string mine = text();
    parts_->store->set(key, bytes_of(mine));
    parts_->watch->waiting("its own word", [] {});  // the watch counts what everybody enters
    return mine;
  }
  std::string theirs;
  parts_->watch->waiting("rank 0's word", [&] {
    parts_->wait_for(key, kLastResort);
    theirs = parts_->read(key);
  });
  return theirs;
}

std::vector<std::string> World::from_each(const std::string& text) {
  if (alone()) return {text};
  const std::int64_t round = parts_->texts++;
  const auto key = [&](std::int64_t number) { return fmt::format("text/{}/{}", round, number); };
  parts_->store->set(key(rank_.number), bytes_of(text));
  std::vector<std::string> texts;
  parts_->watch->waiting("the others' words", [&] {
    for (std::int64_t i = 0; i < rank_.count; ++i) {
      parts_->wait_for(key(i), kLastResort);
      texts.push_back(parts_->read(key(i)));
    }
  });
  return texts;
}

}  // namespace tune
