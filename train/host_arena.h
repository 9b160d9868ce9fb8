#pragma once
#include <cstddef>
#include <map>
#include <mutex>
#include <unordered_map>

namespace tune {

/// Memory for the tensors of a run on the CPU: one reserved range of addresses, whose pages are taken from the kernel
/// when first touched and then kept. A step finds the range as the step before it left it, so there are no page faults
/// after the largest batch was seen, and no holes that grow: the lowest gap that is wide enough is taken, neighbours
/// are merged. Thread-safe.
class HostArena {
 public:
  /// Reserves addresses, no memory. valid() is false where the kernel refuses.
  explicit HostArena(std::size_t reserved_bytes);
  ~HostArena();
  HostArena(const HostArena&) = delete;
  HostArena& operator=(const HostArena&) = delete;

  bool valid() const { return begin_ != nullptr; }

  /// `bytes` at a multiple of 64; nullptr when no gap is wide enough.
  void* allocate(std::size_t bytes);
  bool owns(const void* data) const { return data >= begin_ && data < begin_ + reserved_; }
  /// What allocate() gave.
  void release(void* data);

  /// Gives the pages of all gaps back to the kernel. What is handed out is left alone.
  void trim();

  std::size_t used_bytes() const;
  /// The highest address ever handed out, from the beginning: what the arena costs.
  std::size_t touched_bytes() const;

 private:
  mutable std::mutex mutex_;
  std::byte* begin_ = nullptr;
  std::size_t reserved_ = 0, used_ = 0, touched_ = 0;
  std::map<std::byte*, std::size_t> gaps_;            // by address; no two touch each other
  std::unordered_map<std::byte*, std::size_t> live_;  // sizes of what is handed out
};

/// From here on ATen's CPU tensors lie in one HostArena, which lives as long as the program. Once a process; without
/// effect where the kernel refuses to reserve the addresses.
void keep_cpu_tensors_in_arena();

/// What the tensors of an earlier run took there, and nobody holds any more, goes back to the kernel.
void trim_arena();

}  // namespace tune
