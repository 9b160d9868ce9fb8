#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <cstdlib>

#include "recipes/schema/error.h"
#include "train/parallel/backend.h"
#include "train/parallel/rank.h"

namespace tune {
namespace {

// This host's address on the way to the master: a datagram socket is routed, though nothing is sent. The host's own
// name, which Gloo would take, may mean the loopback, or nothing.
std::string own_address(const Rank& rank) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(rank.master_address.c_str(), std::to_string(rank.master_port).c_str(), &hints, &found) != 0)
    throw Error{Fault::recipe,
                {},
                fmt::format("the master's address {} is not known here", rank.master_address),
                "set MASTER_ADDR to rank 0's host name or address"};
  std::string address = "127.0.0.1";
  const int socket = ::socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket >= 0 && ::connect(socket, found->ai_addr, found->ai_addrlen) == 0) {
    sockaddr_storage own{};
    socklen_t length = sizeof(own);
    char text[INET6_ADDRSTRLEN] = {};
    if (::getsockname(socket, reinterpret_cast<sockaddr*>(&own), &length) == 0 &&
        ::getnameinfo(reinterpret_cast<sockaddr*>(&own), length, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0)
      address = text;
  }
  if (socket >= 0) ::close(socket);
  ::freeaddrinfo(found);
  return address;
}

}  // namespace

c10::intrusive_ptr<c10d::Backend> make_gloo(const c10::intrusive_ptr<c10d::Store>& store, const Rank& rank,
                                            std::chrono::milliseconds timeout) {
  using Gloo = c10d::ProcessGroupGloo;
  auto options = Gloo::Options::create(timeout);
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  options->devices = {interface != nullptr ? Gloo::createDeviceForInterface(interface)
                                           : Gloo::createDeviceForHostname(own_address(rank))};
  options->threads = 1;  // collectives are waited for in the order in which they begin
  return c10::make_intrusive<Gloo>(store, static_cast<int>(rank.number), static_cast<int>(rank.count), options);
}

}  // namespace tune
