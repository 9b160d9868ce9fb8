// train.offload_optimizer on the GPU: the same bits as without it, though copies and updates run side by side.
#include <c10/core/CachingDeviceAllocator.h>

#include <map>

#include "tests/gpu/gpu_test.h"
#include "train/optim/optimizer.h"

namespace tune {
namespace {

constexpr std::int64_t kRows = 4096, kColumns = 4096;  // a state of 128 MiB: its way takes longer than its update

std::vector<Parameter> parameters_on_gpu(bool rounded_at_random) {
  at::manual_seed(41);
  std::vector<Parameter> all;
  for (const std::int64_t rows : {kRows, std::int64_t{1}, kRows, kRows / 4, std::int64_t{1}, kRows}) {
    const at::Tensor value = at::randn({rows, kColumns}).to(kGpu, at::kBFloat16);
    all.push_back({.name = fmt::format("w{}", all.size()),
                   .value = value,
                   .master = rounded_at_random ? value : value.to(at::kFloat),
                   .gradient = at::zeros({rows, kColumns}, value.options().dtype(at::kFloat)),
                   .decays = rows > 1});
  }
  return all;
}

void draw_gradients(std::vector<Parameter>& parameters, int step) {
  at::manual_seed(step);
  for (Parameter& parameter : parameters) parameter.gradient.normal_();
}

void keep_busy() {
  const at::Tensor factor = at::ones({2048, 2048}, at::TensorOptions(kGpu).dtype(at::kBFloat16));
  for (int i = 0; i < 20; ++i) at::mm(factor, factor);
}

// From the last one on, with other work of the device in between, as a backward pass has it.
void step_in_parts(Optimizer& optimizer, std::size_t count) {
  optimizer.begin_step(1e-2);
  for (std::size_t end = count; end > 0; end -= std::min<std::size_t>(end, 2)) {
    keep_busy();
    optimizer.update(end - std::min<std::size_t>(end, 2), end);
  }
  optimizer.zero_gradients();
}

std::int64_t allocated_bytes() {
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(at::kCUDA));
  return allocator->getDeviceStats(kGpu.index()).allocated_bytes[0].current;
}

using Disk = std::map<std::string, std::vector<std::byte>>;

struct Trained {
  std::vector<Parameter> parameters;
  Disk state;
  std::int64_t state_bytes = 0;  // on the device
};

Trained train(TrainOptions options, bool offload, bool in_parts) {
  options.offload_optimizer = offload;
  Trained trained{.parameters = parameters_on_gpu(options.bf16_stochastic_round), .state = {}};
  keep_busy();  // what cuBLAS keeps is there before it is counted
  const std::int64_t before = allocated_bytes();
  const auto optimizer = make_optimizer(trained.parameters, options);
  for (int step = 0; step < 4; ++step) {
    draw_gradients(trained.parameters, step);
    if (in_parts)
      step_in_parts(*optimizer, trained.parameters.size());
    else
      optimizer->step(1e-2);
  }
  for (const NamedBytes& bytes : optimizer->state())
    trained.state[bytes.name] = {bytes.bytes.begin(), bytes.bytes.end()};
  trained.state_bytes = allocated_bytes() - before;
  return trained;
}

class GpuOffload : public GpuTest {};

TEST_F(GpuOffload, ChangesNoBitAndLeavesTwoOnTheDevice) {
  for (const OptimizerType optim : {OptimizerType::adamw, OptimizerType::adamw_8bit})
    for (const bool rounded_at_random : {false, true}) {
      const TrainOptions options{.optim = optim, .weight_decay = 0.1, .bf16_stochastic_round = rounded_at_random};
      const Trained plain = train(options, false, false);
      for (const bool in_parts : {false, true}) {
        const Trained offloaded = train(options, true, in_parts);
        for (std::size_t i = 0; i < plain.parameters.size(); ++i)
          EXPECT_TRUE(at::equal(offloaded.parameters[i].master, plain.parameters[i].master)) << i;
        EXPECT_TRUE(offloaded.state == plain.state);
        // the two largest of 3.25 that size
        EXPECT_LT(static_cast<double>(offloaded.state_bytes), 0.65 * static_cast<double>(plain.state_bytes));
        figures_ = fmt::format("{} MiB of state on the device, {} without", offloaded.state_bytes >> 20,
                               plain.state_bytes >> 20);
      }
    }
}

TEST_F(GpuOffload, GoesOnFromACheckpointWithoutIt) {
  const TrainOptions plain_options{.weight_decay = 0.1},
      offloaded_options{.weight_decay = 0.1, .offload_optimizer = true};
  const Trained before = train(plain_options, false, false);
  std::vector<at::Tensor> masters;
  for (const TrainOptions& options : {plain_options, offloaded_options}) {
    std::vector<Parameter> parameters = parameters_on_gpu(false);
    const auto optimizer = make_optimizer(parameters, options);
    draw_gradients(parameters, 9);
    optimizer->step(1e-2);
    optimizer->restore(
        [&](std::string_view name, std::span<std::byte> destination) {
          std::ranges::copy(before.state.at(std::string(name)), destination.begin());
        },
        4);
    draw_gradients(parameters, 10);
    optimizer->step(1e-2);
    masters.push_back(parameters.front().master);
  }
  EXPECT_TRUE(at::equal(masters[0], masters[1]));
}

}  // namespace
}  // namespace tune
