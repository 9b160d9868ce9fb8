// A 7 B model's LoRA step with random weights: does it fit, how fast is it?
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include <chrono>
#include <cmath>

#include "tests/gpu/gpu_test.h"
#include "tests/train/lone_step.h"
#include "tests/train/random_model.h"
#include "train/device.h"
#include "train/optim/optimizer.h"
#include "train/plan/memory.h"

namespace tune {
namespace {

constexpr std::int64_t kDocument = 2048;

ModelConfig llama_2_7b() {
  return {.model_type = "llama",
          .vocab_size = 32000,
          .hidden_size = 4096,
          .intermediate_size = 11008,
          .num_hidden_layers = 32,
          .num_attention_heads = 32,
          .num_key_value_heads = 32,
          .head_dim = 128,
          .max_position_embeddings = 4096,
          .rms_norm_eps = 1e-5};
}

std::int64_t weights_of_layer(const ModelConfig& c) {
  const std::int64_t heads = 2 * c.num_attention_heads + 2 * c.num_key_value_heads;
  return c.hidden_size * (heads * c.head_dim + 3 * c.intermediate_size);
}

PackedBatch batch_of(std::int64_t tokens) {
  PackedBatch batch;
  for (std::int64_t i = 0; i < tokens; ++i) {
    batch.ids.push_back(static_cast<std::int32_t>(i * 7919 % 32000));
    batch.positions.push_back(static_cast<std::int32_t>(i % kDocument));
    batch.labels.push_back((i + 1) % kDocument == 0 ? kNoLabel : (i + 1) * 7919 % 32000);
    if (i % kDocument == 0) batch.document_starts.push_back(static_cast<std::int32_t>(i));
  }
  batch.document_starts.push_back(static_cast<std::int32_t>(tokens));
  return batch;
}

// What `tune plan` says of it, without what the allocator cannot see.
double planned_gib(const ModelConfig& config, const AdapterOptions& adapter, std::int64_t tokens, bool checkpointing,
                   Precision precision) {
  Recipe recipe;
  recipe.adapter = adapter;
  recipe.train.device = Device::cuda;
  recipe.train.precision = precision;
  recipe.train.deterministic = false;
  recipe.train.gradient_checkpointing = checkpointing;
  recipe.train.per_device_train_batch_size = tokens / kDocument;
  Plan plan{.micro_batch_tokens = tokens, .parameters = total_parameters(config)};
  plan.trainable_parameters = trainable_parameters(config, adapter);
  plan.memory = memory_items(recipe, config, plan);
  return static_cast<double>(plan.peak_bytes() - kCudaContextBytes) / (1 << 30);
}

class GpuSpeed : public GpuTest {
 protected:
  /// Steps of at most `tokens` tokens; without recomputation fewer where they do not fit. Then fewer layers.
  void measure(std::int64_t tokens, bool checkpointing, Precision precision = Precision::bf16) {
    auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(at::kCUDA));
    ASSERT_NE(allocator, nullptr);
    const at::Tensor first_use = at::empty({1}, kGpu);
    allocator->emptyCache();
    allocator->resetPeakStats(0);

    use_exact_kernels("cuda:0", false);  // as fast as it goes
    ModelConfig config = llama_2_7b();
    const AdapterOptions adapter{.lora_r = 16, .lora_alpha = 32};
    std::size_t free = 0, total = 0;
    ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    const std::int64_t room = static_cast<std::int64_t>(free) - (std::int64_t{checkpointing ? 2 : 6} << 30);
    const auto bytes = [&](std::int64_t count) {
      const std::int64_t tape = count * tape_bytes_per_token(config, adapter, 2);
      const std::int64_t kept = checkpointing ? 2 * count * config.hidden_size : tape;
      const std::int64_t layers = config.num_hidden_layers * (2 * weights_of_layer(config) + kept);
      return layers + (checkpointing ? tape : 0) + 4 * config.vocab_size * config.hidden_size + count * 200'000;
    };
    while (!checkpointing && tokens > kDocument && bytes(tokens) > room) tokens /= 2;
    while (config.num_hidden_layers > 1 && bytes(tokens) > room) --config.num_hidden_layers;

    DecoderOptions options{.dtype = Dtype::bf16, .device = "cuda:0", .fp8_base = precision == Precision::fp8};
    options.adapter = adapter;
    options.gradient_checkpointing = checkpointing;
    Decoder decoder(config, RandomModel(config, 0.02), options);
    const TrainOptions train{.learning_rate = 1e-4, .lr_scheduler_type = Scheduler::constant};
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(decoder.trained(), train);
    const std::vector<PackedBatch> batch = {batch_of(tokens)};
    constexpr int kWarmUp = 2, kSteps = 4;
    double first = 0, last = 0, seconds = 0;
    for (int step = 0; step < kWarmUp + kSteps; ++step) {
      c10::cuda::device_synchronize();
      const auto start = std::chrono::steady_clock::now();
      const auto outcome = lone_step(decoder, *optimizer, batch, train, step, kWarmUp + kSteps);
      c10::cuda::device_synchronize();
      ASSERT_TRUE(outcome.has_value());
      if (step == 0) first = outcome->loss;
      if (step >= kWarmUp) seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      last = outcome->loss;
    }
    // near ln(vocabulary) for random weights, then lower
    EXPECT_NEAR(first, std::log(32000.0), 2.0);
    EXPECT_LT(last, first);

    // attention 3 x 2 S d a layer, half the square; what is computed a second time does not count
    const double attention = 6.0 * kDocument * static_cast<double>(config.hidden_size * config.num_hidden_layers);
    const double rate = kSteps * static_cast<double>(tokens) / seconds;
    const double flops = rate * (flops_per_token(config, adapter) + attention);
    const std::string name = device_name("cuda:0");
    const double peak = peak_flops("cuda:0");
    const std::string share = peak > 0 ? fmt::format(" (MFU {:.1f} % of {:.0f})", 100 * flops / peak, peak / 1e12) : "";
    const double memory = static_cast<double>(peak_memory_bytes("cuda:0")) / (1 << 30);
    const double planned = planned_gib(config, adapter, tokens, checkpointing, precision);
    figures_ = fmt::format(
        "{} layers, {} tokens a step: {:.0f} tokens/s, {:.0f} TFLOP/s{}, peak memory {:.1f} GiB, planned {:.1f} "
        "({:+.0f} "
        "%), {}",
        config.num_hidden_layers, tokens, rate, flops / 1e12, share, memory, planned, 100 * (planned / memory - 1),
        name);
    std::printf("%s\n", figures_.c_str());
  }
};

TEST_F(GpuSpeed, LoraStepOfLlama2With7B) { measure(8 * kDocument, false); }

TEST_F(GpuSpeed, LoraStepOfLlama2With7BInFp8) {
  if (lacks_fp8()) GTEST_SKIP() << figures_;
  measure(8 * kDocument, false, Precision::fp8);
}

TEST_F(GpuSpeed, RecomputingLoraStepOfLlama2With7B) { measure(4 * kDocument, true); }

}  // namespace
}  // namespace tune
