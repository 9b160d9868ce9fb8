// train.offload_optimizer: the same bits as without it, whatever is done with an optimizer.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "train/optim/host_state.h"
#include "train/optim/optimizer.h"

namespace tune {
namespace {

using Disk = std::map<std::string, std::vector<std::byte>, std::less<>>;

Disk saved(Optimizer& optimizer) {
  Disk disk;
  for (const NamedBytes& bytes : optimizer.state()) disk[bytes.name] = {bytes.bytes.begin(), bytes.bytes.end()};
  return disk;
}

void restore(Optimizer& optimizer, const Disk& disk, std::int64_t steps) {
  optimizer.restore(
      [&](std::string_view name, std::span<std::byte> destination) {
        std::ranges::copy(disk.find(name)->second, destination.begin());
      },
      steps);
}

enum class Masters { the_values, their_own, none };

struct Kind {
  OptimizerType optim;
  Masters masters;
};

// Two of everything that an optimizer is made of: its state here and there.
class Offload : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    at::manual_seed(37);
    plain_options_ = {
        .optim = GetParam().optim, .weight_decay = 0.1, .bf16_stochastic_round = GetParam().masters == Masters::none};
    offloaded_options_ = plain_options_;
    offloaded_options_.offload_optimizer = true;
    const auto add = [&](const char* name, at::IntArrayRef shape, bool decays, double rate_scale) {
      const at::Tensor start = at::randn(shape);
      for (auto* parameters : {&plain_, &offloaded_}) parameters->push_back(parameter(name, start, decays, rate_scale));
    };
    add("table", {300, 7}, true, 1);
    add("norm", {17}, false, 1);
    add("w@512", {1000}, true, 1);  // a slice
    add("lora_B", {33, 5}, true, 16);
    add("one", {1}, false, 1);
  }

  static Parameter parameter(const char* name, const at::Tensor& start, bool decays, double rate_scale) {
    const bool bf16 = GetParam().masters != Masters::the_values, own = GetParam().masters == Masters::their_own;
    const at::Tensor value = bf16 ? start.to(at::kBFloat16) : start.clone();
    return {.name = name,
            .value = value,
            .master = own ? value.to(at::kFloat) : value,
            .gradient = at::zeros(start.sizes()),
            .decays = decays,
            .rate_scale = rate_scale};
  }

  void draw_gradients() {
    for (std::size_t i = 0; i < plain_.size(); ++i)
      for (const at::Tensor drawn = at::randn(plain_[i].gradient.sizes()); auto* parameters : {&plain_, &offloaded_})
        (*parameters)[i].gradient.copy_(drawn);
  }

  void step(Optimizer& plain, Optimizer& offloaded) {
    draw_gradients();
    plain.step(1e-2);
    offloaded.step(1e-2);
  }

  void expect_the_same_weights() const {
    for (std::size_t i = 0; i < plain_.size(); ++i) {
      EXPECT_TRUE(at::equal(offloaded_[i].value, plain_[i].value)) << plain_[i].name;
      EXPECT_TRUE(at::equal(offloaded_[i].master, plain_[i].master)) << plain_[i].name;
    }
  }

  TrainOptions plain_options_, offloaded_options_;
  std::vector<Parameter> plain_, offloaded_;
};

TEST_P(Offload, ChangesNoBit) {
  const auto plain = make_optimizer(plain_, plain_options_), offloaded = make_optimizer(offloaded_, offloaded_options_);
  for (int t = 0; t < 5; ++t) {
    step(*plain, *offloaded);
    expect_the_same_weights();
    EXPECT_EQ(saved(*offloaded), saved(*plain));
  }
  EXPECT_EQ(offloaded_[0].gradient.abs().max().item<float>(), 0);
}

// A backward pass updates its units from the last one on; nothing is told about the order.
TEST_P(Offload, UpdatesInParts) {
  const auto plain = make_optimizer(plain_, plain_options_), offloaded = make_optimizer(offloaded_, offloaded_options_);
  const std::vector<std::vector<std::pair<std::size_t, std::size_t>>> orders = {
      {{4, 5}, {2, 4}, {0, 2}}, {{0, 1}, {1, 2}, {2, 5}}, {{3, 5}, {0, 2}, {2, 2}, {2, 3}}, {{1, 3}, {3, 5}, {0, 1}}};
  for (const auto& parts : orders) {
    draw_gradients();
    plain->step(1e-2);
    offloaded->begin_step(1e-2);
    for (const auto& [first, end] : parts) offloaded->update(first, end);
    offloaded->zero_gradients();
    expect_the_same_weights();
  }
  EXPECT_EQ(saved(*offloaded), saved(*plain));
}

TEST_P(Offload, GoesOnFromCheckpointsWithItAndWithoutIt) {
  auto plain = make_optimizer(plain_, plain_options_), offloaded = make_optimizer(offloaded_, offloaded_options_);
  step(*plain, *offloaded);
  const Disk disk = saved(*offloaded);
  step(*plain, *offloaded);  // what is restored into has another state by now
  const Disk later = saved(*plain);
  restore(*plain, disk, 1);
  restore(*offloaded, disk, 1);
  EXPECT_EQ(saved(*offloaded), disk);
  step(*plain, *offloaded);
  expect_the_same_weights();
  std::swap(plain, offloaded);
  std::swap(plain_options_, offloaded_options_);
  restore(*plain, later, 2);
  restore(*offloaded, later, 2);
  EXPECT_EQ(saved(*offloaded), saved(*plain));
}

TEST_P(Offload, OneParameterTakesNoTurns) {
  plain_.resize(1);
  offloaded_.resize(1);
  const auto plain = make_optimizer(plain_, plain_options_), offloaded = make_optimizer(offloaded_, offloaded_options_);
  for (int t = 0; t < 3; ++t) step(*plain, *offloaded);
  expect_the_same_weights();
  EXPECT_EQ(saved(*offloaded), saved(*plain));
}

std::string name_of(const ::testing::TestParamInfo<Kind>& info) {
  const char* masters = info.param.masters == Masters::the_values  ? "fp32"
                        : info.param.masters == Masters::their_own ? "bf16_with_masters"
                                                                   : "bf16_rounded_at_random";
  return std::string(info.param.optim == OptimizerType::adamw ? "adamw_" : "adamw_8bit_") + masters;
}

INSTANTIATE_TEST_SUITE_P(All, Offload,
                         ::testing::Values(Kind{OptimizerType::adamw, Masters::the_values},
                                           Kind{OptimizerType::adamw, Masters::their_own},
                                           Kind{OptimizerType::adamw, Masters::none},
                                           Kind{OptimizerType::adamw_8bit, Masters::the_values},
                                           Kind{OptimizerType::adamw_8bit, Masters::their_own},
                                           Kind{OptimizerType::adamw_8bit, Masters::none}),
                         name_of);

// A tensor of so many bytes, all of them `value`.
at::Tensor filled(std::int64_t bytes, int value) { return at::full({bytes}, value, at::kByte); }

TEST(HostState, LendsCopiesAndKeepsWhatWasDoneToThem) {
  HostState host(at::kCPU);
  at::Tensor a = filled(300, 1), b = filled(5, 2), c = at::full({3, 2}, 3.0);
  host.add({&a, &c});
  host.add({&b});
  const at::Tensor kept_a = a, kept_b = b;
  EXPECT_TRUE(at::equal(a, filled(300, 1)));
  EXPECT_EQ(c.sizes(), (std::vector<std::int64_t>{3, 2}));
  host.fetch(0);
  host.fetch(1);
  host.lend(0, {&a, &c});
  EXPECT_FALSE(a.is_same(kept_a));
  a.fill_(7);
  c.add_(1);
  EXPECT_TRUE(at::equal(kept_a, filled(300, 1)));
  host.take_back(0, {&a, &c});
  host.settle();
  EXPECT_TRUE(a.is_same(kept_a) && b.is_same(kept_b));
  EXPECT_TRUE(at::equal(a, filled(300, 7)) && at::equal(c, at::full({3, 2}, 4.0)) && at::equal(b, filled(5, 2)));
}

TEST(HostState, FetchesAnewWhatWasChangedOnTheHost) {
  HostState host(at::kCPU);
  at::Tensor a = filled(9, 1);
  host.add({&a});
  host.fetch(0);
  host.settle();
  a.fill_(2);
  host.fetch(0);
  host.lend(0, {&a});
  EXPECT_TRUE(at::equal(a, filled(9, 2)));
  host.take_back(0, {&a});
}

}  // namespace
}  // namespace tune
