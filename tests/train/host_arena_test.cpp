#include "train/host_arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace tune {
namespace {

TEST(HostArena, GivesTheLowestGapThatIsWideEnough) {
  HostArena arena(1 << 20);
  ASSERT_TRUE(arena.valid());
  void* a = arena.allocate(1000);
  void* b = arena.allocate(5000);
  void* c = arena.allocate(64);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a) % 64, 0U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b) % 64, 0U);
  arena.release(b);
  EXPECT_EQ(arena.allocate(4000), b);
  EXPECT_GT(arena.allocate(2000), c);
  EXPECT_EQ(arena.allocate(512), static_cast<std::byte*>(b) + 4032);
}

TEST(HostArena, MergesWhatIsFreed) {
  HostArena arena(1 << 20);
  std::vector<void*> blocks;
  for (int i = 0; i < 9; ++i) blocks.push_back(arena.allocate(1024));
  for (const int i : {1, 5, 3, 2, 4}) arena.release(blocks[static_cast<std::size_t>(i)]);
  EXPECT_EQ(arena.allocate(5 * 1024), blocks[1]);
  EXPECT_EQ(arena.touched_bytes(), 9U * 1024);
  EXPECT_EQ(arena.used_bytes(), 9U * 1024);
}

TEST(HostArena, SaysWhenItIsFull) {
  HostArena arena(4096);
  void* all = arena.allocate(4096);
  EXPECT_NE(all, nullptr);
  EXPECT_EQ(arena.allocate(1), nullptr);
  arena.release(all);
  EXPECT_EQ(arena.allocate(1), all);
}

TEST(HostArena, GivesUnusedPagesBack) {
  HostArena arena(std::size_t{64} << 20);
  constexpr std::size_t kSize = std::size_t{8} << 20;
  auto* kept = static_cast<char*>(arena.allocate(kSize + 64));  // the gap behind it begins within a page
  auto* unused = static_cast<char*>(arena.allocate(kSize));
  std::memset(kept, 1, kSize + 64);
  std::memset(unused, 1, kSize);
  arena.release(unused);
  arena.trim();
  EXPECT_EQ(std::count(kept, kept + kSize + 64, 1), static_cast<std::ptrdiff_t>(kSize + 64));
  unused = static_cast<char*>(arena.allocate(kSize));
  EXPECT_EQ(unused[kSize / 2], 0) << "a page that the kernel has taken comes back empty";
}

TEST(HostArena, RepeatsItself) {
  HostArena arena(std::size_t{64} << 20);
  std::mt19937_64 random(7);
  std::vector<std::size_t> sizes(200);
  for (std::size_t& size : sizes) size = random() % 100000 + 1;
  const auto step = [&] {
    std::vector<void*> addresses, kept;
    for (const std::size_t size : sizes) {
      addresses.push_back(arena.allocate(size));
      std::memset(addresses.back(), 1, size);
      if (size % 3 == 0)
        arena.release(addresses.back());
      else
        kept.push_back(addresses.back());
    }
    for (void* data : kept) arena.release(data);
    return addresses;
  };
  const std::vector<void*> first = step();
  const std::size_t touched = arena.touched_bytes();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(step(), first);
  EXPECT_EQ(arena.touched_bytes(), touched);
  EXPECT_EQ(arena.used_bytes(), 0U);
}

}  // namespace
}  // namespace tune
