#include "train/host_arena.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "recipes/schema/error.h"

namespace tune {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kSmall = 4096;  // below this the C library is as good, and keeps the list of gaps short

std::size_t rounded(std::size_t bytes) {
  return std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
}

HostArena* tensors = nullptr;

void release_tensor(void* data) {
  if (tensors->owns(data))
    tensors->release(data);
  else
    std::free(data);  // NOLINT(cppcoreguidelines-owning-memory): an allocator is where memory has no owner yet
}

class TensorAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* data = bytes >= kSmall ? tensors->allocate(bytes) : nullptr;
    if (data == nullptr && bytes > 0 && posix_memalign(&data, kAlignment, bytes) != 0) throw std::bad_alloc();
    return {data, data, &release_tensor, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_tensor; }
  void copy_data(void* to, const void* from, std::size_t count) const override { std::memcpy(to, from, count); }
};

std::size_t machine_memory() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

HostArena::HostArena(std::size_t reserved_bytes) {
  void* mapped =
      mmap(nullptr, reserved_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return;
  madvise(mapped, reserved_bytes, MADV_HUGEPAGE);  // a fault for 2 MiB instead of 4 KiB where the kernel has them
  begin_ = static_cast<std::byte*>(mapped);
  reserved_ = reserved_bytes;
  gaps_[begin_] = reserved_bytes;
}

HostArena::~HostArena() {
  if (valid()) munmap(begin_, reserved_);
}

void* HostArena::allocate(std::size_t bytes) {
  const std::size_t wanted = rounded(bytes);
  const std::lock_guard lock(mutex_);
  const auto gap = std::find_if(gaps_.begin(), gaps_.end(), [&](const auto& entry) { return entry.second >= wanted; });
  if (gap == gaps_.end()) return nullptr;
  const auto [data, size] = *gap;
  gaps_.erase(gap);
  if (size > wanted) gaps_[data + wanted] = size - wanted;
  live_[data] = wanted;
  used_ += wanted;
  touched_ = std::max(touched_, static_cast<std::size_t>(data - begin_) + wanted);
  return data;
}

void HostArena::release(void* data) {
  const std::lock_guard lock(mutex_);
  const auto entry = live_.find(static_cast<std::byte*>(data));
  TUNE_CHECK(entry != live_.end(), "{} is not of this arena", data);
  const auto [begin, size] = *entry;
  live_.erase(entry);
  used_ -= size;
  auto gap = gaps_.emplace(begin, size).first;
  if (const auto next = std::next(gap); next != gaps_.end() && begin + size == next->first) {
    gap->second += next->second;
    gaps_.erase(next);
  }
  if (gap == gaps_.begin()) return;
  if (const auto before = std::prev(gap); before->first + before->second == begin) {
    before->second += gap->second;
    gaps_.erase(gap);
  }
}

void HostArena::trim() {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::lock_guard lock(mutex_);
  for (const auto& [data, size] : gaps_) {
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t first = (address + page - 1) / page * page, end = (address + size) / page * page;
    if (first < end) madvise(data + (first - address), end - first, MADV_DONTNEED);
  }
}

std::size_t HostArena::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

std::size_t HostArena::touched_bytes() const {
  const std::lock_guard lock(mutex_);
  return touched_;
}

void keep_cpu_tensors_in_arena() {
  if (tensors != nullptr) return;
  auto arena = std::make_unique<HostArena>(2 * machine_memory());
  if (!arena->valid()) return;
  tensors = arena.release();  // never deleted: tensors of static life may outlast main()
  static TensorAllocator allocator;
  c10::SetCPUAllocator(&allocator, 1);
}

void trim_arena() {
  if (tensors != nullptr) tensors->trim();
}

}  // namespace tune
