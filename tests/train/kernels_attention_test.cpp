#include <gtest/gtest.h>

#include <algorithm>

#include "tests/train/kernels_judging.h"
#include "train/kernels/attention.h"

namespace tune {
namespace {

struct Case {
  const char* name;
  std::vector<std::int32_t> document_starts;
  AttentionShape shape;
};
const Case kCases[] = {
    {"one token", {0, 1}, {.query_heads = 2, .kv_heads = 2, .head_dim = 16}},
    {"MHA, documents of all sorts", {0, 1, 66, 66, 196, 261}, {.query_heads = 4, .kv_heads = 4, .head_dim = 32}},
    {"GQA 9/3", {0, 130, 195, 323}, {.query_heads = 9, .kv_heads = 3, .head_dim = 64}},
    {"MQA, head_dim 20", {0, 65, 130}, {.query_heads = 3, .kv_heads = 1, .head_dim = 20}},
    {"window of 1", {0, 70}, {.query_heads = 2, .kv_heads = 1, .head_dim = 16, .window = 1}},
    {"window of 32", {0, 65, 300}, {.query_heads = 4, .kv_heads = 2, .head_dim = 16, .window = 32}},
    {"window of 100, several tasks", {0, 1100}, {.query_heads = 2, .kv_heads = 1, .head_dim = 16, .window = 100}},
    {"window longer than the rows", {0, 65, 130}, {.query_heads = 4, .kv_heads = 2, .head_dim = 16, .window = 500}},
    {"one long document", {0, 1000}, {.query_heads = 2, .kv_heads = 2, .head_dim = 64}},
};

class Attention : public KernelTest {
 protected:
  static at::Tensor random_qkv(const Case& c, at::ScalarType type) {
    return random({c.document_starts.back(), (c.shape.query_heads + 2 * c.shape.kv_heads) * c.shape.head_dim}, type);
  }
  static double longest(const Case& c) {
    std::int32_t most = 0;
    for (std::size_t i = 0; i + 1 < c.document_starts.size(); ++i)
      most = std::max(most, c.document_starts[i + 1] - c.document_starts[i]);
    return most;
  }
};

TEST_F(Attention, EqualsAutogradOfTheReference) {
  for (const at::ScalarType type : kTypes)
    for (const Case& c : kCases) {
      const at::Tensor qkv = random_qkv(c, type), wide = leaf(qkv, at::kDouble);
      const at::Tensor expected = attention_reference(wide, c.document_starts, c.shape);
      const at::Tensor d_out = random(expected.sizes(), type);
      expected.backward(d_out.to(at::kDouble));

      const AttentionResult result = attention(qkv, c.document_starts, c.shape);
      const at::Tensor d_qkv = attention_backward(d_out, qkv, result, c.document_starts, c.shape);
      // norm x eps x terms: a score sums head_dim products, an output up to `longest` weights. 16 bits: one rounding
      // forwards; backwards the rounded out enters every weight's gradient, and the result is rounded
      const double fp32 = (static_cast<double>(c.shape.head_dim) + longest(c) + 32) * 0x1p-24;
      const double rounding = type == at::kFloat ? 0 : 1.01 * unit_roundoff(type);
      const double out_norm = expected.detach().abs().max().item<double>(),
                   gradient_norm = wide.grad().abs().max().item<double>();
      expect_within(result.out, expected.detach(), out_norm * (fp32 + rounding), std::string(c.name) + ", out");
      expect_within(d_qkv, wide.grad(), gradient_norm * (fp32 + 2 * rounding), std::string(c.name) + ", d_qkv");
    }
}

TEST_F(Attention, LogSumExpIsThatOfTheScores) {
  const Case& c = kCases[2];
  const at::Tensor qkv = random_qkv(c, at::kFloat);
  const AttentionResult result = attention(qkv, c.document_starts, c.shape);
  // head 4 reads kv head 1; token 132 is the third of the second document
  const at::Tensor q = qkv[132].narrow(0, 4 * 64, 64), k = qkv.slice(0, 130, 133).narrow(1, (9 + 1) * 64, 64);
  const double expected = (at::mv(k, q) / 8.0).logsumexp(0).item<double>();
  EXPECT_NEAR(result.log_sum_exp[4][132].item<double>(), expected, 1e-5);
}

TEST_F(Attention, DocumentsDoNotSeeEachOther) {
  const AttentionShape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 16};
  const at::Tensor qkv = random({195, 8 * 16}, at::kFloat);
  const at::Tensor packed = attention(qkv, {0, 65, 195}, shape).out;
  EXPECT_TRUE(at::equal(packed.narrow(0, 0, 65), attention(qkv.narrow(0, 0, 65), {0, 65}, shape).out));
  EXPECT_TRUE(at::equal(packed.narrow(0, 65, 130), attention(qkv.narrow(0, 65, 130), {0, 130}, shape).out));
}

TEST_F(Attention, RepeatsToTheLastBit) {
  for (const at::ScalarType type : kTypes)
    for (const Case& c : kCases) {
      const at::Tensor qkv = random_qkv(c, type);
      const AttentionResult first = attention(qkv, c.document_starts, c.shape);
      const at::Tensor d_out = random(first.out.sizes(), type);
      const at::Tensor gradient = attention_backward(d_out, qkv, first, c.document_starts, c.shape);
      for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(at::equal(attention(qkv, c.document_starts, c.shape).out, first.out)) << c.name;
        ASSERT_TRUE(at::equal(attention_backward(d_out, qkv, first, c.document_starts, c.shape), gradient)) << c.name;
      }
    }
}

}  // namespace
}  // namespace tune
