// What docs/methods.md says about types of numbers, looked up in the tensors themselves.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <memory>

#include "tests/train/small_models.h"
#include "train/kernels/attention.h"
#include "train/kernels/cross_entropy.h"
#include "train/kernels/matmul.h"
#include "train/kernels/rms_norm.h"
#include "train/model/linear.h"
#include "train/optim/optimizer.h"
#include "train/step.h"

namespace tune {
namespace {

using ::testing::StartsWith;

constexpr Dtype kDtypes[] = {Dtype::fp32, Dtype::bf16, Dtype::fp16};

const char* name_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "fp32";
    case at::kBFloat16:
      return "bf16";
    case at::kHalf:
      return "fp16";
    default:
      return "another type";
  }
}

std::string cell(const std::string& line, std::size_t number) {
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= number; ++i) begin = line.find('|', begin) + 1;
  const std::string text = line.substr(begin, line.find('|', begin) - begin);
  const std::size_t first = text.find_first_not_of(' ');
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(' ') + 1 - first);
}

// What the table says under `precision: <name>`, by the first cell of its rows.
std::map<std::string, std::string> documented(const std::string& precision) {
  std::ifstream file(std::string(TUNE_SOURCE_DIR) + "/docs/methods.md");
  std::map<std::string, std::string> rows;
  std::size_t column = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("| | `precision: fp32`"))
      for (std::size_t i = 1; column == 0 && i < 8; ++i)
        column = cell(line, i) == "`precision: " + precision + "`" ? i : 0;
    else if (column > 0 && !line.starts_with("|"))
      break;
    else if (column > 0)
      rows[cell(line, 0)] = cell(line, column) == "the same" ? cell(line, 1) : cell(line, column);
  }
  return rows;
}

class TypesOfNumbers : public testing::TestWithParam<Dtype> {
 protected:
  void expect_said(const std::string& row, const std::string& seen) const {
    ASSERT_EQ(said_.count(row), 1U) << "no row \"" << row << "\" in docs/methods.md";
    EXPECT_THAT(said_.at(row), StartsWith(seen)) << row;
  }
  const at::ScalarType type_ = scalar_type(GetParam());
  const std::map<std::string, std::string> said_ = documented(name_of(scalar_type(GetParam())));
};

TEST_P(TypesOfNumbers, AreThoseOfTheTable) {
  for (const AdapterType type : {AdapterType::none, AdapterType::lora, AdapterType::qlora}) {
    const std::unique_ptr<Decoder> decoder = decoder_of(GetParam(), type);
    const at::Tensor hidden = decoder->forward(document(9), false);
    expect_said("base weights, adapters as they multiply", name_of(decoder->head_weight().scalar_type()));
    expect_said("hidden states, attention's output, logits", name_of(hidden.scalar_type()));
    expect_said("hidden states, attention's output, logits",
                name_of(matmul_nt(hidden, decoder->head_weight()).scalar_type()));
    for (const Parameter& parameter : decoder->trained()) {
      expect_said("base weights, adapters as they multiply", name_of(parameter.value.scalar_type()));
      expect_said("gradients of trained weights, over micro-batches and ranks",
                  name_of(parameter.gradient.scalar_type()));
      EXPECT_EQ(parameter.master.scalar_type(), at::kFloat);
      const bool are_values = parameter.value.scalar_type() == at::kFloat;
      expect_said("masters of trained weights", are_values ? "the weights themselves" : "fp32");
      if (type != AdapterType::none) continue;  // B of an adapter is always a copy: it lies in a larger matrix
      EXPECT_EQ(parameter.master.is_same(parameter.value), are_values) << parameter.name;
    }
  }
  DecoderOptions nf4{.dtype = GetParam()};
  nf4.adapter.type = AdapterType::qlora;
  LinearGroup group({{.name = "m.k_proj", .rows = 64}}, 64, nf4);
  EXPECT_EQ(group.weight().scalar_type(), at::kByte);
  group.weight().zero_();
  const at::Tensor y = group.forward(at::zeros({3, 64}, type_), nullptr, AdapterUse::on, {});
  expect_said("base weights of `qlora`", fmt::format("NF4, multiplied as {}", name_of(y.scalar_type())));
  if (GetParam() != Dtype::bf16) return;
  LinearGroup fp8({{.name = "m.k_proj", .rows = 64}}, 64, {.fp8_base = true});
  EXPECT_EQ(fp8.weight().scalar_type(), at::kByte);
  fp8.weight().zero_();
  const at::Tensor z = fp8.forward(at::zeros({3, 64}, type_), nullptr, AdapterUse::on, {});
  expect_said("base weights of `precision: fp8`",
              fmt::format("e4m3, multiplied as e4m3, results in {}", name_of(z.scalar_type())));
}

TEST_P(TypesOfNumbers, OfSumsAreThoseOfTheTable) {
  const std::string sums = "sums inside products, softmax, normalisation, log-sum-exp, losses";
  const at::Tensor x = at::randn({6, 64}).to(type_), one = at::ones({64}, type_);
  expect_said(sums, name_of(rms_norm(x, one, 1e-5).inv_rms.scalar_type()));
  const AttentionResult attended =
      attention(at::randn({6, 64}).to(type_), {0, 6}, {.query_heads = 2, .kv_heads = 1, .head_dim = 16});
  expect_said("hidden states, attention's output, logits", name_of(attended.out.scalar_type()));
  expect_said(sums, name_of(attended.log_sum_exp.scalar_type()));
  const CrossEntropyResult result =
      linear_cross_entropy(x, at::randn({9, 64}).to(type_), at::zeros({6}, at::kLong), 1, true, at::zeros({9, 64}));
  expect_said(sums, name_of(result.losses.scalar_type()));
  // 2,048 and 4,096 ones: in 16 bits the sum would stand still
  at::Tensor row = at::ones({1, 4097}, type_);
  row[0][0] = 2048;
  EXPECT_EQ(matmul_nt(row, at::ones({1, 4097}, type_)).item<float>(), 6144);
  static_assert(std::is_same_v<decltype(Loss::sum), double> && std::is_same_v<decltype(StepOutcome::loss), double>);
  expect_said("sums of losses over tokens, rows and ranks", "fp64");
}

TEST_P(TypesOfNumbers, OfMomentsAreThoseOfTheTable) {
  const std::unique_ptr<Decoder> decoder = decoder_of(GetParam(), AdapterType::none);
  const std::unique_ptr<Optimizer> adamw = make_optimizer(decoder->trained(), {}),
                                   in_8_bits = make_optimizer(decoder->trained(), {.optim = OptimizerType::adamw_8bit});
  for (const NamedBytes& moment : adamw->state()) EXPECT_EQ(moment.dtype, "F32") << moment.name;
  for (const NamedBytes& moment : in_8_bits->state())
    EXPECT_EQ(moment.dtype, moment.name.ends_with("_codes") ? "U8" : "F32") << moment.name;
  expect_said("AdamW's moments", "fp32, or 8 bits with scales in fp32");
}

INSTANTIATE_TEST_SUITE_P(All, TypesOfNumbers, testing::ValuesIn(kDtypes),
                         [](const auto& info) { return std::string(name_of(scalar_type(info.param))); });

}  // namespace
}  // namespace tune
