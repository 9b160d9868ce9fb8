// Whole decoders and whole runs: the GPU against the CPU, which tests/train holds against autograd.
#include "train/model/decoder.h"

#include "tests/gpu/gpu_test.h"
#include "tests/train/lone_step.h"
#include "tests/train/random_model.h"
#include "train/objectives/supervised.h"
#include "train/optim/optimizer.h"

namespace tune {
namespace {

constexpr std::int64_t kVocab = 97;

ModelConfig tiny(std::int64_t kv_heads, std::int64_t window, bool tied, std::int64_t experts = 0) {
  return {.model_type = window > 0 ? "mistral" : "llama",
          .vocab_size = kVocab,
          .hidden_size = 64,
          .intermediate_size = 96,
          .num_hidden_layers = 3,
          .num_attention_heads = 4,
          .num_key_value_heads = kv_heads,
          .head_dim = 16,
          .max_position_embeddings = 128,
          .rms_norm_eps = 1e-5,
          .sliding_window = window,
          .tie_word_embeddings = tied,
          .num_local_experts = experts,
          .num_experts_per_tok = experts > 0 ? 2 : 0};
}

// Documents in which every id follows from the one before; the first three of each are not trained.
PackedBatch documents(std::vector<std::int32_t> lengths, int seed) {
  PackedBatch batch;
  batch.document_starts = {0};
  for (const std::int32_t length : lengths) {
    const auto id = [&](int i) { return static_cast<std::int32_t>((i * 7 + length + seed) % kVocab); };
    for (int i = 0; i < length; ++i) {
      batch.ids.push_back(id(i));
      batch.positions.push_back(i);
      batch.labels.push_back(i + 1 < length && i > 2 ? id(i + 1) : kNoLabel);
    }
    batch.document_starts.push_back(static_cast<std::int32_t>(batch.ids.size()));
  }
  return batch;
}

struct Case {
  const char* name;
  std::int64_t kv_heads, window;
  bool tied, adapter, checkpointing;
  std::int64_t experts = 0;
};
const Case kCases[] = {
    {"MHA, LoRA", 4, 0, false, true, false},        {"GQA, LoRA", 2, 0, false, true, true},
    {"window, LoRA", 2, 5, true, true, false},      {"MHA, full", 4, 0, false, false, false},
    {"GQA, full, tied", 2, 0, true, false, true},   {"window, full", 1, 5, false, false, false},
    {"experts, LoRA", 2, 0, false, true, false, 4}, {"experts, full", 2, 0, false, false, true, 4},
};

std::unique_ptr<Decoder> make_decoder(const Case& c, Dtype dtype, const char* device, bool fp8_base = false) {
  at::manual_seed(11);
  ModelConfig config = tiny(c.kv_heads, c.window, c.tied, c.experts);
  // Rounding to 16 bits sends a token that is undecided between two experts to the other one: there every token sees
  // all.
  if (dtype != Dtype::fp32) config.num_experts_per_tok = c.experts;
  DecoderOptions options{
      .dtype = dtype, .device = device, .fp8_base = fp8_base, .gradient_checkpointing = c.checkpointing};
  options.adapter = {.type = c.adapter ? AdapterType::lora : AdapterType::none, .lora_r = 4, .lora_alpha = 8};
  return std::make_unique<Decoder>(config, RandomModel(config, 0.1), options);
}

// A fresh adapter's B is zero, and with it the gradient of A.
void fill_adapter(Decoder& decoder) {
  at::manual_seed(12);
  for (Parameter& parameter : decoder.trained()) {
    if (parameter.name.find("lora_B") == std::string::npos) continue;
    parameter.master.copy_(at::randn(parameter.master.sizes()) * 0.2);
    parameter.value.copy_(parameter.master);
  }
}

class GpuDecoder : public GpuTest {};

double share_of_norm(const at::Tensor& have, const at::Tensor& want) {
  return ((have.cpu() - want).norm() / (want.norm() + 1e-6)).item<double>();
}

TEST_F(GpuDecoder, HiddenStatesAndGradientsAreTheCpus) {
  double worst = 0;
  const PackedBatch batch = documents({9, 30, 1, 57}, 0);
  const auto trained = [&](const Case& c, Dtype dtype, const char* device) {
    std::unique_ptr<Decoder> decoder = make_decoder(c, dtype, device);
    fill_adapter(*decoder);
    const Loss loss = supervised_loss(*decoder, batch, 0.25, true);
    return std::pair(std::move(decoder), loss.sum);
  };
  for (const Dtype dtype : {Dtype::fp32, Dtype::bf16, Dtype::fp16}) {
    // share of the norm: fp32 sums of some hundred terms; bf16 differs from fp32 by up to 0.043 here (on the CPU), so
    // two ways to round by up to twice that; fp16 rounds eight times as finely
    const double tolerance = dtype == Dtype::fp32 ? 3e-5 : dtype == Dtype::bf16 ? 0.09 : 0.012;
    for (const Case& c : kCases) {
      auto [host, host_loss] = trained(c, dtype, "cpu");
      auto [gpu, gpu_loss] = trained(c, dtype, "cuda:0");
      EXPECT_NEAR(gpu_loss, host_loss, host_loss * tolerance) << c.name;
      const at::Tensor hidden = host->forward(batch, false).to(at::kFloat);
      EXPECT_LE(share_of_norm(gpu->forward(batch, false).to(at::kFloat), hidden), tolerance) << c.name;
      for (std::size_t i = 0; i < host->trained().size(); ++i) {
        const double share = share_of_norm(gpu->trained()[i].gradient, host->trained()[i].gradient);
        EXPECT_LE(share, tolerance) << c.name << ", " << host->trained()[i].name;
        worst = std::max(worst, share / tolerance);
      }
      auto [again, again_loss] = trained(c, dtype, "cuda:0");
      for (std::size_t i = 0; i < again->trained().size(); ++i)
        EXPECT_TRUE(at::equal(again->trained()[i].gradient, gpu->trained()[i].gradient))
            << c.name << ", " << again->trained()[i].name << " does not repeat";
    }
  }
  figures_ = fmt::format("error up to {:.2f} of the tolerance", worst);
}

TEST_F(GpuDecoder, CachedGenerationGivesTheSameHiddenStates) {
  for (const std::int64_t window : {0, 5}) {
    std::unique_ptr<Decoder> decoder = make_decoder({"", 2, window, false, true, false}, Dtype::fp32, "cuda:0");
    const PackedBatch batch = documents({9}, 0);
    const at::Tensor whole = decoder->forward(batch, false);
    KeyValueCache cache;
    at::Tensor last = decoder->forward_cached({batch.ids.begin(), batch.ids.begin() + 4}, cache);
    for (std::size_t i = 4; i < 9; ++i) last = decoder->forward_cached({batch.ids[i]}, cache);
    EXPECT_LE((last[0] - whole[8]).abs().max().item<double>(), 1e-4) << "window " << window;
  }
}

TEST_F(GpuDecoder, DropoutDrawsTheSameMaskForwardsAndBackwards) {
  const ModelConfig config = tiny(2, 0, false);
  std::vector<at::Tensor> gradients;
  for (const bool checkpointing : {false, true}) {  // which draws the forward's masks a second time
    at::manual_seed(11);
    DecoderOptions options{.dtype = Dtype::fp32, .device = "cuda:0", .gradient_checkpointing = checkpointing};
    options.adapter = {.lora_r = 4, .lora_alpha = 8, .lora_dropout = 0.3};
    Decoder decoder(config, RandomModel(config, 0.1), options);
    fill_adapter(decoder);
    decoder.set_step(3, 1);
    supervised_loss(decoder, documents({40, 20}, 0), 1.0, true);
    gradients.push_back(decoder.trained().front().gradient.clone());
  }
  EXPECT_TRUE(at::equal(gradients[0], gradients[1]));
}

std::vector<double> losses_of_run(const Case& c, Dtype dtype, const char* device, bool fp8_base = false) {
  std::unique_ptr<Decoder> decoder = make_decoder(c, dtype, device, fp8_base);
  const TrainOptions train{.learning_rate = c.adapter ? 5e-3 : 1e-3, .lr_scheduler_type = Scheduler::constant};
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(decoder->trained(), train);
  LossScaler scaler;
  std::vector<double> losses;
  for (int step = 0; step < 20; ++step)
    losses.push_back(lone_step(*decoder, *optimizer, {documents({33, 50}, step % 4), documents({64}, step % 3)}, train,
                               step, 20, dtype == Dtype::fp16 ? &scaler : nullptr)
                         ->loss);
  return losses;
}

// Every step's loss, the last one's too. Adam divides by the size of a gradient, so rounding errors of small ones grow:
// on the CPU, weights off by one rounding move these losses by up to 3e-6 in fp32 and 3.2e-3 in bf16; fp16 rounds eight
// times as finely.
constexpr double kFp32Tolerance = 1e-4, kBf16Tolerance = 1e-2, kFp16Tolerance = 2e-3;
constexpr double kFp8Tolerance = 2e-2;  // a rounding that falls the other way costs up to a sixteenth of a value

void expect_same_curve(const Case& c, Dtype dtype, double tolerance, std::string& figures, bool fp8_base = false) {
  const std::vector<double> host = losses_of_run(c, dtype, "cpu", fp8_base),
                            gpu = losses_of_run(c, dtype, "cuda:0", fp8_base);
  double worst = 0;
  for (std::size_t i = 0; i < host.size(); ++i) worst = std::max(worst, std::abs(gpu[i] - host[i]) / host[i]);
  EXPECT_LE(worst, tolerance) << c.name;
  EXPECT_LT(gpu.back(), 0.9 * gpu.front()) << c.name << " learns nothing";
  figures += fmt::format("{}{} loss {:.3f} -> {:.3f}, off by {:.1e} (allowed {:.0e})", figures.empty() ? "" : "; ",
                         fp8_base               ? "fp8"
                         : dtype == Dtype::fp32 ? "fp32"
                         : dtype == Dtype::bf16 ? "bf16"
                                                : "fp16",
                         gpu.front(), gpu.back(), worst, tolerance);
}

TEST_F(GpuDecoder, TwentyStepsOfLoraFollowTheCpu) {
  expect_same_curve(kCases[1], Dtype::fp32, kFp32Tolerance, figures_);
  expect_same_curve(kCases[1], Dtype::bf16, kBf16Tolerance, figures_);
  expect_same_curve(kCases[1], Dtype::fp16, kFp16Tolerance, figures_);
}

TEST_F(GpuDecoder, TwentyStepsOverABaseInFp8FollowTheCpu) {
  if (lacks_fp8()) GTEST_SKIP() << figures_;
  expect_same_curve(kCases[1], Dtype::bf16, kFp8Tolerance, figures_, true);
}

TEST_F(GpuDecoder, TwentyStepsOfFullTuningFollowTheCpu) {
  expect_same_curve(kCases[3], Dtype::fp32, kFp32Tolerance, figures_);
  expect_same_curve(kCases[3], Dtype::bf16, kBf16Tolerance, figures_);
  expect_same_curve(kCases[3], Dtype::fp16, kFp16Tolerance, figures_);
}

}  // namespace
}  // namespace tune
