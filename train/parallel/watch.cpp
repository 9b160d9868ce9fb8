#include "train/parallel/watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <thread>
#include <vector>

#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"

namespace tune {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

constexpr auto kBeat = 500ms;
constexpr auto kStandstill = 2500ms;  // without a beat: the process is gone or stopped
constexpr auto kWord = 30s;

constexpr std::array<std::string_view, 8> kPhases = {"starting",   "tokenising", "loading",   "training",
                                                     "evaluating", "saving",     "answering", "finished"};

std::filesystem::path heartbeat_file(const std::filesystem::path& output_dir, std::int64_t number) {
  return output_dir / "ranks" / fmt::format("rank-{}.json", number);
}

std::filesystem::path failure_file(const std::filesystem::path& output_dir, const std::string& run) {
  return output_dir / "ranks" / fmt::format("failure-{}.json", run);
}

std::optional<int> failure_code(const std::filesystem::path& file) {
  std::ifstream stream(file);
  if (!stream) return std::nullopt;
  const Json json = Json::parse(stream, nullptr, false);  // of a full disk it may be empty
  return json.is_object() ? json.value("code", 1) : 1;
}

}  // namespace

std::optional<Heartbeat> read_heartbeat(const std::filesystem::path& output_dir, std::int64_t number) {
  std::ifstream stream(heartbeat_file(output_dir, number));
  const Json json = Json::parse(stream, nullptr, false);
  if (!json.is_object()) return std::nullopt;  // not there yet, or read in the middle of a write
  Heartbeat heartbeat{.number = number, .pid = json.value("pid", std::int64_t{0}), .host = json.value("host", "")};
  const auto phase = std::find(kPhases.begin(), kPhases.end(), json.value("phase", ""));
  if (phase != kPhases.end()) heartbeat.phase = static_cast<Phase>(phase - kPhases.begin());
  heartbeat.step = json.value("step", std::int64_t{0});
  heartbeat.collectives = json.value("collectives", std::int64_t{0});
  heartbeat.beats = json.value("beats", std::int64_t{0});
  return heartbeat;
}

std::string whereabouts(const Heartbeat& heartbeat) {
  const std::string_view phase = kPhases[static_cast<std::size_t>(heartbeat.phase)];
  return heartbeat.step > 0 ? fmt::format(" in {}, step {}", phase, heartbeat.step) : fmt::format(" in {}", phase);
}

bool claim_failure(const std::filesystem::path& output_dir, const std::string& run, int code) {
  const std::filesystem::path file = failure_file(output_dir, run);
  const std::string draft = fmt::format("{}.{}-{}", file.string(), host_name(), ::getpid());
  std::error_code ignored;
  std::filesystem::create_directories(file.parent_path(), ignored);
  std::ofstream(draft) << Json{{"code", code}}.dump() << '\n';
  const bool first = ::link(draft.c_str(), file.c_str()) == 0;  // whole at once, and only if there is none
  const bool there = first || std::filesystem::exists(file, ignored);
  std::filesystem::remove(draft, ignored);
  return first || !there;  // on a disk that takes no file everybody speaks
}

bool claims_failure_of_launch(const std::filesystem::path& output_dir, int code) {
  const char* run = std::getenv(kRunVariable);
  return run == nullptr || claim_failure(output_dir, run, code);
}

struct Watch::Parts {
  Parts(std::filesystem::path folder, std::string id, const Rank& me, std::chrono::seconds patience)
      : output_dir(std::move(folder)), run(std::move(id)), rank(me), timeout(patience), host(host_name()) {}

  const std::filesystem::path output_dir;
  const std::string run;
  const Rank rank;
  const std::chrono::seconds timeout;
  const std::string host;
  int file = -1;

  std::mutex mutex;  // of all below
  std::condition_variable wake;
  bool over = false;
  Phase phase = Phase::starting;
  std::int64_t step = 0, collectives = 0, beats = 0;
  const char* waiting_in = nullptr;
  Clock::time_point waiting_since;

  std::set<std::int64_t> seen;               // processes of this host; of the thread alone
  mutable std::atomic<bool> speaks = false;  // this rank has claimed the failure
  std::thread thread;

  void write();
  void look_after(std::unique_lock<std::mutex>& lock);
  void end_if_others_failed() const;
  std::string who(const Heartbeat& heartbeat) const {
    return describe(heartbeat.number, rank.count, heartbeat.host, heartbeat.pid);
  }
  std::vector<std::optional<Heartbeat>> all() const;
  std::vector<Heartbeat> standing_still(const std::function<void()>& meanwhile) const;
  std::string who_keeps_us_waiting(std::int64_t mine);
  void beat();
  void end_if_a_neighbour_is_gone();
  [[noreturn]] void end_all(const std::string& message) const;
};

// Under the mutex. In place: a reader may see half of it and reads again.
void Watch::Parts::write() {
  std::string text = Json{
      {"rank", rank.number}, {"host", host},
      {"pid", ::getpid()},   {"phase", kPhases[static_cast<std::size_t>(phase)]},
      {"step", step},        {"collectives", collectives},
      {"beats", beats}}.dump();
  constexpr std::size_t kWidth = 512;
  text.resize(std::max(text.size(), kWidth), ' ');
  text.back() = '\n';
  [[maybe_unused]] const ssize_t written = ::pwrite(file, text.data(), text.size(), 0);  // lost is lost
}

std::vector<std::optional<Heartbeat>> Watch::Parts::all() const {
  std::vector<std::optional<Heartbeat>> result;
  for (std::int64_t i = 0; i < rank.count; ++i) {
    result.push_back(read_heartbeat(output_dir, i));
    if (!result.back()) result.back() = read_heartbeat(output_dir, i);
  }
  return result;
}

// Looks twice, kStandstill apart.
std::vector<Heartbeat> Watch::Parts::standing_still(const std::function<void()>& meanwhile) const {
  const auto before = all();
  for (auto waited = 0ms; waited < kStandstill; waited += kBeat) {
    std::this_thread::sleep_for(kBeat);
    meanwhile();
  }
  const auto after = all();
  std::vector<Heartbeat> result;
  for (std::size_t i = 0; i < after.size(); ++i)
    if (static_cast<std::int64_t>(i) != rank.number && before[i] && after[i] && after[i]->phase != Phase::finished &&
        before[i]->beats == after[i]->beats)
      result.push_back(*after[i]);
  return result;
}

void Watch::Parts::end_if_others_failed() const {
  if (speaks) return;
  const std::optional<int> code = failure_code(failure_file(output_dir, run));
  if (code && !speaks) ::_exit(*code);
}

// "" when whoever is behind works at something that has no time limit.
std::string Watch::Parts::who_keeps_us_waiting(std::int64_t mine) {
  // While we look at the others' beats, they look at ours.
  const std::vector<Heartbeat> still = standing_still([&] { beat(); });
  std::vector<std::string> names;
  for (const Heartbeat& heartbeat : still) names.push_back(who(heartbeat) + whereabouts(heartbeat));
  if (!names.empty())
    return fmt::format("{} {} no sign of life", fmt::join(names, " and "), names.size() == 1 ? "gives" : "give");
  bool somebody_is_busy = false;
  for (const auto& heartbeat : all()) {
    if (!heartbeat || heartbeat->collectives >= mine || heartbeat->number == rank.number) continue;
    somebody_is_busy = true;
    if (heartbeat->phase == Phase::training) names.push_back(who(*heartbeat) + whereabouts(*heartbeat));
  }
  if (!names.empty())
    return fmt::format("{} {} and doesn't come", fmt::join(names, " and "),
                       names.size() == 1 ? "is alive" : "are alive");
  return somebody_is_busy ? "" : "all ranks are there, but nothing passes between them";
}

void Watch::Parts::beat() {
  const std::lock_guard lock(mutex);
  ++beats;
  write();
}

// For all of them, in one voice.
void Watch::Parts::end_all(const std::string& message) const {
  if (claim_failure(output_dir, run, static_cast<int>(Fault::running))) {
    speak_again();
    tell("tune: {}: {}; the same command goes on from the newest checkpoint\n",
         describe(rank.number, rank.count, host, ::getpid()), message);
  }
  ::_exit(static_cast<int>(Fault::running));
}

// NCCL waits for the dead, and not every launcher ends a run whose rank was killed.
void Watch::Parts::end_if_a_neighbour_is_gone() {
  if (speaks || std::getenv(kRunVariable) != nullptr) return;  // our own launcher sees it, and how it ended
  const std::int64_t first = rank.number - rank.local_number;
  for (std::int64_t i = first; i < first + rank.local_count; ++i) {
    const auto heartbeat = read_heartbeat(output_dir, i);
    if (i == rank.number || !heartbeat || heartbeat->host != host) continue;
    const bool there = ::kill(static_cast<pid_t>(heartbeat->pid), 0) == 0 || errno != ESRCH;
    if (there) seen.insert(heartbeat->pid);  // in a container of its own it never is
    if (there || !seen.contains(heartbeat->pid)) continue;
    std::this_thread::sleep_for(kBeat);  // it may have spoken, or finished, just now
    end_if_others_failed();
    const auto last = read_heartbeat(output_dir, i);
    if (last && last->phase != Phase::finished) end_all(fmt::format("{} is gone{}", who(*last), whereabouts(*last)));
  }
}

void Watch::Parts::look_after(std::unique_lock<std::mutex>& lock) {
  while (!over) {
    ++beats;
    write();
    const bool too_long = waiting_in != nullptr && Clock::now() - waiting_since > timeout;
    const std::int64_t mine = collectives;
    const std::string collective = too_long ? waiting_in : "";
    const std::int64_t at_step = step;
    lock.unlock();
    end_if_others_failed();
    end_if_a_neighbour_is_gone();
    if (const std::string who = too_long ? who_keeps_us_waiting(mine) : ""; !who.empty()) {
      lock.lock();
      const bool still_waiting = waiting_in != nullptr && collectives == mine;
      lock.unlock();
      if (still_waiting)
        end_all(fmt::format("waited for more than {} s (distributed.timeout_seconds) in {}, step {}: {}",
                            timeout.count(), collective, at_step, who));
    }
    lock.lock();
    wake.wait_for(lock, kBeat, [&] { return over; });
  }
}

Watch::Watch(std::filesystem::path output_dir, std::string run, const Rank& rank, std::chrono::seconds timeout)
    : parts_(std::make_unique<Parts>(std::move(output_dir), std::move(run), rank, timeout)) {
  const std::filesystem::path file = heartbeat_file(parts_->output_dir, rank.number);
  std::filesystem::create_directories(file.parent_path());
  parts_->file = ::open(file.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
  if (parts_->file < 0)
    throw Error{Fault::running,
                {file.string()},
                "this rank's heartbeat can't be written here",
                "output_dir must be a folder that all ranks share and may write into"};
  parts_->thread = std::thread([this] {
    std::unique_lock lock(parts_->mutex);
    parts_->look_after(lock);
  });
}

Watch::~Watch() {
  {
    const std::lock_guard lock(parts_->mutex);
    parts_->over = true;
    parts_->phase = Phase::finished;
    parts_->write();
  }
  parts_->wake.notify_all();
  parts_->thread.join();
  ::close(parts_->file);
}

void Watch::enter(Phase phase, std::int64_t step) {
  const std::lock_guard lock(parts_->mutex);
  parts_->phase = phase;
  parts_->step = step;
  parts_->write();
}

void Watch::waiting(const char* name, const std::function<void()>& wait) {
  {
    const std::lock_guard lock(parts_->mutex);
    ++parts_->collectives;
    parts_->waiting_in = name;
    parts_->waiting_since = Clock::now();
  }
  const auto no_longer = [&] {
    const std::lock_guard lock(parts_->mutex);
    parts_->waiting_in = nullptr;
  };
  try {
    wait();
  } catch (const std::exception& error) {
    no_longer();
    broken(name, error.what());
  }
  no_longer();
}

void Watch::broken(const char* name, const std::string& reason) const {
  const std::vector<Heartbeat> still = parts_->standing_still([] {});
  parts_->end_if_others_failed();  // the launcher or another rank knows better and has spoken
  std::vector<std::string> names;
  for (const Heartbeat& heartbeat : still) names.push_back(parts_->who(heartbeat) + whereabouts(heartbeat));
  throw Error{Fault::running,
              {},
              names.empty()
                  ? fmt::format("a connection between ranks broke in {}: {}", name, reason.substr(0, reason.find('\n')))
                  : fmt::format("{} {} gone: the connection broke in {}", fmt::join(names, " and "),
                                names.size() == 1 ? "is" : "are", name),
              "the same command goes on from the newest checkpoint"};
}

bool Watch::claim(int code) const {
  parts_->speaks = true;  // before the file is there: our own thread must not end us
  return claim_failure(parts_->output_dir, parts_->run, code);
}

void Watch::leave_the_word() const { std::this_thread::sleep_for(kWord); }

}  // namespace tune
