#include "recipes/schema/quants.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "recipes/schema/spelling.h"
#include "recipes/schema/suggest.h"

namespace tune {

namespace {

constexpr std::array kHf = {Quant::f32, Quant::f16, Quant::bf16};
constexpr std::array kGguf = {Quant::f32,    Quant::f16,  Quant::bf16,   Quant::q8_0, Quant::q6_k,
                              Quant::q5_k_m, Quant::q5_0, Quant::q4_k_m, Quant::q4_0};
constexpr std::array kOnnx = {Quant::f32, Quant::f16, Quant::bf16, Quant::int8, Quant::int4};

bool holds(ExportFormat format, Quant quant) {
  const auto quants = quants_of(format);
  return std::find(quants.begin(), quants.end(), quant) != quants.end();
}

}  // namespace

std::span<const Quant> quants_of(ExportFormat format) {
  if (format == ExportFormat::hf) return kHf;
  if (format == ExportFormat::gguf) return kGguf;
  if (format == ExportFormat::onnx) return kOnnx;
  return {};
}

bool heeds_importance(ExportFormat format, Quant quant) {
  constexpr std::array kExact = {Quant::f32, Quant::f16, Quant::bf16, Quant::q8_0};
  return format == ExportFormat::gguf && std::find(kExact.begin(), kExact.end(), quant) == kExact.end();
}

QuantFault fault_of(ExportFormat format, Quant quant) {
  if (holds(format, quant)) return {};
  std::vector<std::string> may_be, homes;
  for (const Quant known : quants_of(format)) may_be.emplace_back(spelling(known));
  for (const auto& [other, name] : Spelling<ExportFormat>::values)
    if (holds(other, quant)) homes.emplace_back(name);
  return {fmt::format("quant is {} with format {}", spelling(quant), spelling(format)),
          fmt::format("{} goes with {}; write {}", spelling(quant), one_of(homes), one_of(may_be))};
}

}  // namespace tune
