// Every operation on the GPU against its CPU twin on the same inputs. Both round at the same places; what differs is
// the order of fp32 sums and, where such a difference crosses a tie, one rounding to bf16 or fp16 on each side.
#include <cmath>

#include "checkpoints/quantize/nf4.h"
#include "tests/gpu/gpu_test.h"
#include "train/kernels/adamw_8bit.h"
#include "train/kernels/attention.h"
#include "train/kernels/cross_entropy.h"
#include "train/kernels/cuda.h"
#include "train/kernels/fp8.h"
#include "train/kernels/grouped_matmul.h"
#include "train/kernels/matmul.h"
#include "train/kernels/nf4.h"
#include "train/kernels/rms_norm.h"
#include "train/kernels/rope.h"
#include "train/kernels/stochastic_round.h"
#include "train/kernels/swiglu.h"

namespace tune {
namespace {

constexpr double kEps = 1e-5;

struct RowShape {
  std::int64_t tokens, columns;
};
constexpr RowShape kRowShapes[] = {{1, 16}, {7, 50}, {65, 576}, {300, 512}, {130, 4096}};

std::string name_of(at::ScalarType type, const RowShape& shape) {
  return fmt::format("{} [{}, {}]", c10::toString(type), shape.tokens, shape.columns);
}

// `terms` additions in fp32 on both sides.
double sums_of(std::int64_t terms) { return 2 * static_cast<double>(terms + 16) * kFloatRoundoff; }

class GpuKernels : public GpuTest {};

TEST_F(GpuKernels, RmsNorm) {
  for (const at::ScalarType type : kTypes)
    for (const RowShape& shape : kRowShapes) {
      const at::Tensor x = random({shape.tokens, shape.columns}, type), weight = random({shape.columns}, type);
      const RmsNormResult host = rms_norm(x, weight, kEps), gpu = rms_norm(x.to(kGpu), weight.to(kGpu), kEps);
      // two roundings on each side
      expect_close(gpu.y, host.y, host.y.abs() * (sums_of(shape.columns) + 4.1 * unit_roundoff(type)),
                   name_of(type, shape));
      expect_close(gpu.inv_rms, host.inv_rms, host.inv_rms * sums_of(shape.columns), name_of(type, shape) + " inv_rms");
      EXPECT_TRUE(at::equal(rms_norm_recompute(x.to(kGpu), weight.to(kGpu), gpu.inv_rms), gpu.y));

      const at::Tensor delta = random({shape.tokens, shape.columns}, type), sum = x + delta;
      at::Tensor residual = x.to(kGpu);
      const RmsNormResult fused = add_rms_norm_(residual, delta.to(kGpu), weight.to(kGpu), kEps);
      EXPECT_TRUE(at::equal(residual.cpu(), sum)) << name_of(type, shape);
      const RmsNormResult again = rms_norm(sum.to(kGpu), weight.to(kGpu), kEps);
      EXPECT_TRUE(at::equal(fused.y, again.y) && at::equal(fused.inv_rms, again.inv_rms)) << name_of(type, shape);
    }
}

TEST_F(GpuKernels, RmsNormBackward) {
  for (const at::ScalarType type : kTypes)
    for (const RowShape& shape : kRowShapes) {
      const at::Tensor x = random({shape.tokens, shape.columns}, type), weight = random({shape.columns}, type);
      const at::Tensor dy = random({shape.tokens, shape.columns}, type),
                       before = random({shape.tokens, shape.columns}, type);
      const at::Tensor inv_rms = rms_norm(x, weight, kEps).inv_rms;
      at::Tensor dx = before.clone(), d_weight = at::ones({shape.columns});
      rms_norm_backward_add_(dx, dy, x, weight, inv_rms, d_weight);
      const auto on_gpu = [&] {
        std::pair<at::Tensor, at::Tensor> result{before.to(kGpu), at::ones({shape.columns}).to(kGpu)};
        rms_norm_backward_add_(result.first, dy.to(kGpu), x.to(kGpu), weight.to(kGpu), inv_rms.to(kGpu), result.second);
        return result;
      };
      const auto [gpu_dx, gpu_d_weight] = on_gpu();
      const at::Tensor n = (x.to(at::kDouble) * inv_rms.to(at::kDouble).unsqueeze(1)).abs();
      const at::Tensor g = (weight.to(at::kDouble) * dy.to(at::kDouble)).abs();
      const at::Tensor dx_scale = inv_rms.unsqueeze(1) * (g + n * (g * n).mean(-1, true)) + before.abs();
      expect_close(gpu_dx, dx, dx_scale * sums_of(shape.columns) + dx.abs() * (2.1 * unit_roundoff(type)),
                   name_of(type, shape) + " dx");
      const at::Tensor d_weight_scale = (n * dy.to(at::kDouble).abs()).sum(0) + 1;
      expect_close(gpu_d_weight, d_weight, d_weight_scale * sums_of(shape.tokens), name_of(type, shape) + " d_weight");
      const auto again = on_gpu();
      EXPECT_TRUE(at::equal(again.first, gpu_dx) && at::equal(again.second, gpu_d_weight)) << "does not repeat";
    }
}

// With columns that the fused kernel takes (multiples of 8 in bf16), and others.
TEST_F(GpuKernels, GroupedMatmul) {
  const RowGroups host{at::tensor({40, 40, 41, 130}, at::kInt)}, gpu{host.ends.to(kGpu)};
  for (const at::ScalarType type : kTypes)
    for (const std::int64_t in : {64, 20}) {
      constexpr std::int64_t kOut = 48;
      const std::string name = fmt::format("{} {} columns", c10::toString(type), in);
      const at::Tensor x = random({130, in}, type), dy = random({130, kOut}, type);
      const at::Tensor weight = random({4 * kOut, in}, type);
      const at::Tensor y = grouped_matmul_nt(x, weight, host), dx = grouped_matmul_nn(dy, weight, host),
                       dw = grouped_matmul_tn(dy, x, host);
      const auto bound = [&](const at::Tensor& value, std::int64_t terms) {
        return value.abs() * (2.1 * unit_roundoff(type)) + static_cast<double>(terms) * sums_of(terms);
      };
      expect_close(grouped_matmul_nt(x.to(kGpu), weight.to(kGpu), gpu), y, bound(y, in), name + " nt");
      expect_close(grouped_matmul_nn(dy.to(kGpu), weight.to(kGpu), gpu), dx, bound(dx, kOut), name + " nn");
      expect_close(grouped_matmul_tn(dy.to(kGpu), x.to(kGpu), gpu), dw, bound(dw, 89), name + " tn");
    }
}

// Blocks inside rows, over the ends of rows, and rectangles that begin inside one.
TEST_F(GpuKernels, Nf4) {
  for (const std::int64_t columns : {256, 80, 7}) {
    const std::vector<std::int64_t> rows = {40, 24};
    Nf4Matrices host = make_nf4_matrices(rows, columns, at::kCPU);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const at::Tensor values = random({rows[i], columns}, at::kFloat);
      const auto count = static_cast<std::size_t>(values.numel());
      Nf4Quantizer quantizer(values.numel(),
                             {static_cast<std::byte*>(host.bytes.mutable_data_ptr()) + host.matrices[i].first_byte,
                              static_cast<std::size_t>(Nf4Layout(values.numel()).bytes)});
      quantizer.add({values.const_data_ptr<float>(), count});
      quantizer.finish();
    }
    Nf4Matrices gpu = host;
    gpu.bytes = host.bytes.to(kGpu);
    for (const at::ScalarType type : kTypes) {
      const std::string name = fmt::format("{} {} columns", c10::toString(type), columns);
      for (const Nf4Rectangle& part : {Nf4Rectangle{0, 64, 0, columns}, Nf4Rectangle{39, 3, columns / 2, columns / 3}})
        EXPECT_TRUE(at::equal(nf4_dequantize(gpu, part, type).cpu(), nf4_dequantize(host, part, type))) << name;
      const at::Tensor x = random({33, columns}, type), dy = random({33, 64}, type);
      const at::Tensor y = nf4_matmul_nt(x, host, {}), dx = nf4_matmul_nn(dy, host, {});
      const auto bound = [&](const at::Tensor& value, std::int64_t terms) {
        return value.abs() * (2.1 * unit_roundoff(type)) + static_cast<double>(terms) * sums_of(terms);
      };
      expect_close(nf4_matmul_nt(x.to(kGpu), gpu, {}), y, bound(y, columns), name + " nt");
      expect_close(nf4_matmul_nn(dy.to(kGpu), gpu, {}), dx, bound(dx, 64), name + " nn");
    }
  }
}

TEST_F(GpuKernels, Fp8ValuesAreTheCpus) {
  for (const at::ScalarType type : kTypes)
    for (const RowShape& shape : kRowShapes) {
      const at::Tensor x = random({shape.tokens, shape.columns}, type), factors = at::rand({shape.columns}) + 0.1;
      for (const at::Tensor& by : {at::Tensor(), factors}) {
        const Fp8Rows host = fp8_quantize(x, by), gpu = fp8_quantize(x.to(kGpu), by.defined() ? by.to(kGpu) : by);
        EXPECT_TRUE(at::equal(gpu.scales.cpu(), host.scales)) << name_of(type, shape);
        EXPECT_TRUE(at::equal(gpu.values.cpu().view(at::kByte), host.values.view(at::kByte))) << name_of(type, shape);
      }
    }
  for (const auto& [rows, columns] : {std::pair(16, 16), std::pair(80, 336), std::pair(1024, 4096)}) {
    const at::Tensor bytes = at::randint(256, {rows, columns}, at::kByte);
    EXPECT_TRUE(at::equal(cuda::transpose_bytes(bytes.to(kGpu)).cpu(), bytes.t().contiguous())) << rows;
  }
}

// Both sides multiply the same numbers; the tensor cores' sums may keep fewer bits than fp32 has.
TEST_F(GpuKernels, Fp8Products) {
  if (lacks_fp8()) GTEST_SKIP() << figures_;
  for (const auto& [rows, columns, experts] :
       {std::tuple(48, 80, 1), std::tuple(256, 4096, 1), std::tuple(64, 96, 3)}) {
    Fp8Matrix host = make_fp8_matrix(rows * experts, columns, at::kCPU);
    const Fp8Rows quantized = fp8_quantize(random({rows * experts, columns}, at::kFloat));
    host.values().copy_(quantized.values);
    host.scales().copy_(quantized.scales);
    const Fp8Matrix gpu{host.bytes.to(kGpu), host.rows, host.columns};
    const at::Tensor ends = experts == 1 ? at::Tensor() : at::tensor({20, 20, 33}, at::kInt);
    const RowGroups groups{ends}, on_gpu{ends.defined() ? ends.to(kGpu) : ends};
    const at::Tensor x = random({33, columns}, at::kBFloat16), dy = random({33, rows}, at::kBFloat16);
    const at::Tensor y = fp8_matmul_nt(x, host, groups), dx = fp8_matmul_nn(dy, host, groups);
    const auto bound = [](const at::Tensor& value, std::int64_t terms) {
      return value.abs() * (2.1 * unit_roundoff(at::kBFloat16)) + static_cast<double>(terms) * 0x1p-13;
    };
    const std::string name = fmt::format("[{}, {}] of {}", rows, columns, experts);
    expect_close(fp8_matmul_nt(x.to(kGpu), gpu, on_gpu), y, bound(y, columns), name + " nt");
    expect_close(fp8_matmul_nn(dy.to(kGpu), gpu, on_gpu), dx, bound(dx, rows), name + " nn");
  }
}

// A rounding that falls the other way may choose the code beside: a step of the map, of the block's largest value.
TEST_F(GpuKernels, AdamW8bit) {
  const at::Tensor start = random({1000}, at::kFloat);
  at::Tensor host = start.clone(), gpu = start.to(kGpu);
  Moments8bit host_moments = make_moments_8bit(host), gpu_moments = make_moments_8bit(gpu);
  for (int step = 1; step <= 5; ++step) {
    const at::Tensor gradient = random({1000}, at::kFloat);
    const AdamWStep options{
        .learning_rate = 1e-2, .beta_1 = 0.9, .beta_2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1, .step = step};
    adamw_8bit_(host, gradient, host_moments, options);
    adamw_8bit_(gpu, gradient.to(kGpu), gpu_moments, options);
    const at::Tensor same = gpu_moments.codes_1.cpu().eq(host_moments.codes_1);
    EXPECT_GT(same.to(at::kFloat).mean().item<float>(), 0.995f) << step;
  }
  EXPECT_LT((gpu.cpu() - host).abs().mean().item<float>(), 1e-4f);
}

TEST_F(GpuKernels, StochasticRoundDrawsTheCpusNumbers) {
  const at::Tensor exact = random({1000}, at::kFloat);
  at::Tensor host = at::empty({1000}, at::kBFloat16), gpu = host.to(kGpu);
  stochastic_round_(host, exact, 0xfedcba9876543210ull, 77);
  stochastic_round_(gpu, exact.to(kGpu), 0xfedcba9876543210ull, 77);
  EXPECT_TRUE(at::equal(gpu.cpu(), host));
}

TEST_F(GpuKernels, Rope) {
  constexpr std::int64_t kTokens = 65, kHeads = 3, kOthers = 2;
  const at::Tensor positions = at::randint(0, 4000, {kTokens}, at::TensorOptions(at::kInt));
  for (const at::ScalarType type : kTypes)
    for (const std::int64_t head_dim : {2, 16, 50, 64, 128})
      for (const std::int64_t more : {0, 5}) {  // 5: rows do not start on 16 bytes
        const RopeTable table = make_rope_table(4000, head_dim, 10000.0, at::kCPU);
        const RopeTable gpu_table = make_rope_table(4000, head_dim, 10000.0, kGpu);
        expect_close(gpu_table.cosine, table.cosine, at::full_like(table.cosine, 8 * kFloatRoundoff), "cosine");
        expect_close(gpu_table.sine, table.sine, at::full_like(table.sine, 8 * kFloatRoundoff), "sine");
        const at::Tensor before = random({kTokens, (kHeads + kOthers) * head_dim + more}, type);
        const at::Tensor pairs = before.narrow(1, 0, kHeads * head_dim).view({kTokens, kHeads, 2, head_dim / 2}).abs();
        const at::Tensor scale =
            pairs.sum(2, true).expand_as(pairs).reshape({kTokens, kHeads * head_dim}).to(at::kFloat);
        for (const bool inverse : {false, true}) {
          at::Tensor host = before.clone(), gpu = before.to(kGpu), again = before.to(kGpu);
          rope_(host, kHeads, head_dim, positions, table, inverse);
          rope_(gpu, kHeads, head_dim, positions.to(kGpu), gpu_table, inverse);
          rope_(again, kHeads, head_dim, positions.to(kGpu), gpu_table, inverse);
          EXPECT_TRUE(at::equal(again, gpu)) << "does not repeat";
          const at::Tensor rotated = host.narrow(1, 0, kHeads * head_dim);
          expect_close(gpu.narrow(1, 0, kHeads * head_dim), rotated,
                       scale * (16 * kFloatRoundoff) + rotated.abs() * (2.1 * unit_roundoff(type)),
                       fmt::format("{} head_dim {}", c10::toString(type), head_dim));
          const std::int64_t rest = kOthers * head_dim + more;
          EXPECT_TRUE(
              at::equal(gpu.narrow(1, kHeads * head_dim, rest).cpu(), before.narrow(1, kHeads * head_dim, rest)));
        }
      }
}

TEST_F(GpuKernels, SwiGlu) {
  for (const at::ScalarType type : kTypes)
    for (const RowShape& shape : kRowShapes) {
      const at::Tensor gate_up = random({shape.tokens, 2 * shape.columns}, type).mul_(4);
      const at::Tensor d_y = random({shape.tokens, shape.columns}, type), host = swiglu(gate_up);
      const double rounding = 2.1 * unit_roundoff(type);
      const at::Tensor gpu = swiglu(gate_up.to(kGpu));
      expect_close(gpu, host, host.abs() * (24 * kFloatRoundoff + rounding), name_of(type, shape));

      at::Tensor gradient = gate_up.clone(), gpu_gradient = gate_up.to(kGpu), again = gate_up.to(kGpu);
      swiglu_backward_(gradient, d_y);
      swiglu_backward_(gpu_gradient, d_y.to(kGpu));
      swiglu_backward_(again, d_y.to(kGpu));
      EXPECT_TRUE(at::equal(swiglu(gate_up.to(kGpu)), gpu) && at::equal(again, gpu_gradient)) << "does not repeat";
      // 1 + g (1 - s) cancels for negative g: the bound is of its terms
      const auto halves = gate_up.to(at::kFloat).chunk(2, 1);
      const at::Tensor s = halves[0].sigmoid(), d = d_y.to(at::kFloat);
      const at::Tensor terms =
          at::cat({(d * halves[1] * s).abs() * (1 + halves[0].abs()), (d * halves[0] * s).abs()}, 1);
      expect_close(gpu_gradient, gradient, terms * (24 * kFloatRoundoff) + gradient.abs() * rounding,
                   name_of(type, shape) + " gradient");
    }
}

TEST_F(GpuKernels, CrossEntropyOfLogits) {
  constexpr double kScale = 0.25;
  for (const at::ScalarType type : kTypes)
    for (const RowShape& shape : {RowShape{3, 50}, RowShape{7, 32000}, RowShape{9, 32016}}) {
      const at::Tensor logits = random({shape.tokens, shape.columns}, type).mul_(5);
      const at::Tensor labels = at::randint(0, shape.columns, {shape.tokens}, at::TensorOptions(at::kLong));
      const at::Tensor log_softmax = at::log_softmax(logits.to(at::kDouble), 1);
      const at::Tensor losses = -log_softmax.gather(1, labels.unsqueeze(1)).squeeze(1);
      at::Tensor one_hot = at::zeros(logits.sizes(), at::kDouble);
      one_hot.scatter_(1, labels.unsqueeze(1), 1.0);
      const at::Tensor gradient = (log_softmax.exp() - one_hot) * kScale;

      at::Tensor gpu = logits.to(kGpu), again = logits.to(kGpu);
      const at::Tensor gpu_losses = cuda::cross_entropy_(gpu, labels.to(kGpu), kScale, true);
      const at::Tensor losses_again = cuda::cross_entropy_(again, labels.to(kGpu), kScale, true);
      EXPECT_TRUE(at::equal(losses_again, gpu_losses) && at::equal(again, gpu)) << "does not repeat";
      // e^(x - largest) is as exact as the difference, of up to 50
      const double relative = (64 + 100) * kFloatRoundoff;
      expect_close(gpu_losses, losses, (losses + 50) * relative, name_of(type, shape) + " losses");
      expect_close(
          gpu, gradient,
          (log_softmax.exp() + one_hot) * (kScale * relative) + gradient.abs() * (1.01 * unit_roundoff(type)) + 1e-38,
          name_of(type, shape) + " gradient");
    }
}

TEST_F(GpuKernels, LinearCrossEntropy) {
  struct Shape {
    std::int64_t rows, hidden, vocab, chunk;
  };
  for (const at::ScalarType type : kTypes)
    for (const Shape& s : {Shape{300, 256, 3000, 0}, Shape{300, 256, 3000, 128}, Shape{65, 50, 333, 16}}) {
      const at::Tensor hidden = random({s.rows, s.hidden}, type), weight = random({s.vocab, s.hidden}, type).mul_(0.1);
      const at::Tensor labels = at::randint(0, s.vocab, {s.rows}, at::TensorOptions(at::kLong));
      const at::Tensor d_weight = at::ones({s.vocab, s.hidden});
      const CrossEntropyResult host = linear_cross_entropy(hidden, weight, labels, 0.5, true, d_weight);
      const auto on_gpu = [&] {
        const at::Tensor d = at::ones({s.vocab, s.hidden}).to(kGpu);
        return std::pair(linear_cross_entropy(hidden.to(kGpu), weight.to(kGpu), labels.to(kGpu), 0.5, true, d, s.chunk),
                         d);
      };
      const auto [gpu, gpu_d_weight] = on_gpu();
      // logits and their gradients are rounded to the type on both sides: norm x roundoff x roundings
      const double rounding = type == at::kFloat ? 0 : 6 * unit_roundoff(type);
      EXPECT_NEAR(gpu.loss_sum, host.loss_sum, host.loss_sum * (sums_of(s.hidden) + rounding));
      expect_close(gpu.d_hidden, host.d_hidden,
                   at::full({}, host.d_hidden.abs().max().item<double>() * (sums_of(s.vocab) + rounding)), "d_hidden");
      expect_close(gpu_d_weight, d_weight,
                   at::full({}, d_weight.abs().max().item<double>() * (sums_of(s.rows) + rounding)), "d_weight");
      const auto [again, d_weight_again] = on_gpu();
      EXPECT_EQ(again.loss_sum, gpu.loss_sum);
      EXPECT_TRUE(at::equal(again.d_hidden, gpu.d_hidden) && at::equal(d_weight_again, gpu_d_weight)) << "no repeat";
    }
}

TEST_F(GpuKernels, Fp32ProductsAreNotRoundedToTf32) {
  const at::Tensor x = random({128, 512}, at::kFloat), weight = random({256, 512}, at::kFloat);
  const at::Tensor exact = at::mm(x.to(at::kDouble), weight.to(at::kDouble).t());
  const at::Tensor scale = at::mm(x.abs(), weight.abs().t());
  expect_close(matmul_nt(x.to(kGpu), weight.to(kGpu)), exact, scale * sums_of(512), "x weight^T");
}

struct AttentionCase {
  const char* name;
  std::vector<std::int32_t> document_starts;
  AttentionShape shape;
};
const AttentionCase kAttentionCases[] = {
    {"one token", {0, 1}, {.query_heads = 2, .kv_heads = 2, .head_dim = 16}},
    {"tokens that are documents", {0, 1, 2, 3}, {.query_heads = 4, .kv_heads = 2, .head_dim = 16}},
    {"MHA, documents of all sorts", {0, 1, 66, 66, 196, 261}, {.query_heads = 4, .kv_heads = 4, .head_dim = 32}},
    {"GQA 9/3", {0, 130, 195, 323}, {.query_heads = 9, .kv_heads = 3, .head_dim = 64}},
    {"MQA, head_dim 20", {0, 65, 130}, {.query_heads = 3, .kv_heads = 1, .head_dim = 20}},
    {"window of 1", {0, 70}, {.query_heads = 2, .kv_heads = 1, .head_dim = 16, .window = 1}},
    {"window of 32", {0, 65, 300}, {.query_heads = 4, .kv_heads = 2, .head_dim = 16, .window = 32}},
    {"window of 100", {0, 1100}, {.query_heads = 2, .kv_heads = 1, .head_dim = 64, .window = 100}},
    {"window longer than the rows", {0, 65, 130}, {.query_heads = 4, .kv_heads = 2, .head_dim = 16, .window = 500}},
    {"one long document", {0, 1000}, {.query_heads = 2, .kv_heads = 2, .head_dim = 128}},
    {"wider than FlashAttention takes", {0, 65, 130}, {.query_heads = 2, .kv_heads = 1, .head_dim = 264}},
};

TEST_F(GpuKernels, Attention) {
  for (const at::ScalarType type : kTypes)
    for (const AttentionCase& c : kAttentionCases) {
      const std::string name = fmt::format("{} {}", c10::toString(type), c.name);
      const at::Tensor qkv =
          random({c.document_starts.back(), (c.shape.query_heads + 2 * c.shape.kv_heads) * c.shape.head_dim}, type);
      const AttentionResult host = attention(qkv, c.document_starts, c.shape);
      const at::Tensor d_out = random(host.out.sizes(), type);
      const at::Tensor d_qkv = attention_backward(d_out, qkv, host, c.document_starts, c.shape);

      const AttentionResult gpu = attention(qkv.to(kGpu), c.document_starts, c.shape);
      const at::Tensor gpu_d_qkv = attention_backward(d_out.to(kGpu), qkv.to(kGpu), gpu, c.document_starts, c.shape);
      // norm x roundoff x terms. bf16: FlashAttention rounds weights and their gradients too, and the keys' gradients
      // of each query head before these are summed over a group
      std::int32_t longest = 0;
      for (std::size_t i = 0; i + 1 < c.document_starts.size(); ++i)
        longest = std::max(longest, c.document_starts[i + 1] - c.document_starts[i]);
      const double fp32 = sums_of(c.shape.head_dim + longest), rounding = type == at::kFloat ? 0 : unit_roundoff(type);
      expect_close(gpu.out, host.out, at::full({}, host.out.abs().max().item<double>() * (fp32 + 3 * rounding)),
                   name + " out");
      expect_close(gpu_d_qkv, d_qkv, at::full({}, d_qkv.abs().max().item<double>() * (2 * fp32 + 8 * rounding)),
                   name + " d_qkv");
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(at::equal(attention(qkv.to(kGpu), c.document_starts, c.shape).out, gpu.out))
            << name << " does not repeat";
        EXPECT_TRUE(
            at::equal(attention_backward(d_out.to(kGpu), qkv.to(kGpu), gpu, c.document_starts, c.shape), gpu_d_qkv))
            << name << " backward does not repeat";
      }
    }
}

}  // namespace
}  // namespace tune
