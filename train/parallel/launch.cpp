#include "train/parallel/launch.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>

#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "train/parallel/rank.h"
#include "train/parallel/watch.h"

namespace tune {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kGrace = 3s;  // for ranks that hear of another's failure by themselves

struct Child {
  pid_t pid = -1;
  bool running = true;
};

// Of the moment: somebody else may take it before rank 0 does, which says so then.
std::int64_t free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  const bool found = socket >= 0 && ::bind(socket, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
                     ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  if (socket >= 0) ::close(socket);
  if (!found) throw Error{Fault::running, {}, "there is no free port for the ranks to meet at", "set --master-port"};
  return ntohs(address.sin_port);
}

sigset_t forwarded_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGUSR1, SIGCHLD}) sigaddset(&set, number);
  return set;
}

class Launcher {
 public:
  Launcher(const LaunchOptions& options, const std::vector<std::string>& arguments,
           const std::filesystem::path& output_dir)
      : options_(options), arguments_(arguments), output_dir_(output_dir) {
    if (options_.master_port == 0) options_.master_port = free_port();
    run_ = fmt::format("{:08x}", std::random_device()());
  }

  int run() {
    const sigset_t set = forwarded_signals();
    sigset_t before;
    pthread_sigmask(SIG_BLOCK, &set, &before);
    for (std::int64_t i = 0; i < options_.ranks; ++i) start(i, before);
    while (running() > 0) {
      const timespec look = {.tv_sec = 0, .tv_nsec = 200'000'000};
      const int number = sigtimedwait(&set, nullptr, &look);
      if (number > 0 && number != SIGCHLD) send(number);
      collect();
      if (failed_at_ && Clock::now() - *failed_at_ > kGrace) send(SIGKILL);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return code_;
  }

 private:
  void start(std::int64_t local, const sigset_t& mask) {
    const pid_t parent = ::getpid(), pid = ::fork();
    if (pid < 0) {
      send(SIGKILL);
      throw Error{Fault::running, {}, fmt::format("rank {} can't be started: {}", local, std::strerror(errno)), ""};
    }
    if (pid > 0) {
      children_.push_back({.pid = pid});
      return;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);  // it died before that
    ::setpgid(0, 0);                        // the terminal's ^C reaches the launcher alone, which hands it on once
    const std::int64_t number = options_.host_number * options_.ranks + local;
    const auto set = [](const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); };
    set("RANK", std::to_string(number));
    set("WORLD_SIZE", std::to_string(options_.ranks * options_.hosts));
    set("LOCAL_RANK", std::to_string(local));
    set("LOCAL_WORLD_SIZE", std::to_string(options_.ranks));
    set("MASTER_ADDR", options_.master_address);
    set("MASTER_PORT", std::to_string(options_.master_port));
    if (options_.hosts == 1) set(kRunVariable, run_);
    pthread_sigmask(SIG_SETMASK, &mask, nullptr);
    std::vector<char*> argv = {const_cast<char*>("tune")};
    for (const std::string& argument : arguments_) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execv("/proc/self/exe", argv.data());
    ::_exit(127);
  }

  std::int64_t running() const {
    std::int64_t count = 0;
    for (const Child& child : children_) count += child.running ? 1 : 0;
    return count;
  }

  void send(int number) {
    for (const Child& child : children_)
      if (child.running) ::kill(child.pid, number);
  }

  void collect() {
    for (std::size_t i = 0; i < children_.size(); ++i) {
      Child& child = children_[i];
      int status = 0;
      if (!child.running || ::waitpid(child.pid, &status, WNOHANG) != child.pid) continue;
      child.running = false;
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
      if (!failed_at_) code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
      // Interrupted ranks have all done the same step and end by themselves, rank 0 when its checkpoint is written.
      if (code_ == static_cast<int>(Fault::interrupted)) continue;
      if (!failed_at_ && WIFSIGNALED(status)) tell_of(static_cast<std::int64_t>(i), child.pid, WTERMSIG(status));
      if (!failed_at_) failed_at_ = Clock::now();
    }
  }

  void tell_of(std::int64_t local, pid_t pid, int number) const {
    if (options_.hosts == 1 && !claim_failure(output_dir_, run_, static_cast<int>(Fault::running))) return;
    const std::int64_t rank = options_.host_number * options_.ranks + local;
    const std::optional<Heartbeat> heartbeat = read_heartbeat(output_dir_, rank);
    tell("tune: {} was ended by signal {} ({}){}{}; the same command goes on from the newest checkpoint\n",
         describe(rank, options_.ranks * options_.hosts, host_name(), pid), number, strsignal(number),
         heartbeat && heartbeat->pid == pid ? whereabouts(*heartbeat) : "",
         number == SIGKILL ? "; dmesg tells whether memory ran out" : "");
  }

  LaunchOptions options_;
  const std::vector<std::string>& arguments_;
  const std::filesystem::path& output_dir_;
  std::string run_;
  std::vector<Child> children_;
  std::optional<Clock::time_point> failed_at_;
  int code_ = 0;
};

}  // namespace

int launch(const LaunchOptions& options, const std::vector<std::string>& arguments,
           const std::filesystem::path& output_dir) {
  return Launcher(options, arguments, output_dir).run();
}

}  // namespace tune
