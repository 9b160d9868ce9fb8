#include "checkpoints/gguf/gguf.h"

#include <fmt/format.h>

#include "checkpoints/gguf/parser.h"
#include "recipes/schema/error.h"

namespace tune {

const GgufTypeTraits* traits_of(GgufType type) {
  static constexpr GgufTypeTraits kF32{"F32", 1, 4}, kF16{"F16", 1, 2}, kBf16{"BF16", 1, 2}, kQ4_0{"Q4_0", 32, 18},
      kQ4_1{"Q4_1", 32, 20}, kQ8_0{"Q8_0", 32, 34};
  switch (type) {
    case GgufType::f32:
      return &kF32;
    case GgufType::f16:
      return &kF16;
    case GgufType::bf16:
      return &kBf16;
    case GgufType::q4_0:
      return &kQ4_0;
    case GgufType::q4_1:
      return &kQ4_1;
    case GgufType::q8_0:
      return &kQ8_0;
  }
  return nullptr;
}

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path) { GgufParser(*this).parse(); }

void GgufFile::fail(const std::string& what) const {
  throw Error{Fault::data, {path().string()}, what, "copy, download or convert the file again"};
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  for (const GgufTensor& tensor : tensors_)
    if (tensor.name == name) return &tensor;
  return nullptr;
}

const GgufFile::Value* GgufFile::value(const std::string& key) const {
  const auto it = pairs_.find(key);
  return it == pairs_.end() ? nullptr : &it->second;
}

bool GgufFile::has(const std::string& key) const { return value(key) != nullptr; }

std::vector<std::string> GgufFile::keys() const {
  std::vector<std::string> keys;
  for (const auto& pair : pairs_) keys.push_back(pair.first);
  return keys;
}

std::string GgufFile::text(const std::string& key, std::optional<std::string> fallback) const {
  const Value* found = value(key);
  if (found == nullptr && fallback) return *fallback;
  if (found == nullptr || !std::holds_alternative<std::string>(*found)) fail(fmt::format("has no text {}", key));
  return std::get<std::string>(*found);
}

std::int64_t GgufFile::integer(const std::string& key, std::optional<std::int64_t> fallback) const {
  const Value* found = value(key);
  if (found == nullptr && fallback) return *fallback;
  if (found != nullptr && std::holds_alternative<Number>(*found)) {
    const Number& number = std::get<Number>(*found);
    if (const auto* n = std::get_if<std::int64_t>(&number)) return *n;
    if (const auto* n = std::get_if<std::uint64_t>(&number); n != nullptr && *n <= INT64_MAX)
      return static_cast<std::int64_t>(*n);
  }
  fail(fmt::format("has no whole number {}", key));
}

double GgufFile::real(const std::string& key, std::optional<double> fallback) const {
  const Value* found = value(key);
  if (found == nullptr && fallback) return *fallback;
  if (found == nullptr || !std::holds_alternative<Number>(*found)) fail(fmt::format("has no number {}", key));
  return std::visit([](auto n) { return static_cast<double>(n); }, std::get<Number>(*found));
}

bool GgufFile::boolean(const std::string& key, bool fallback) const {
  const Value* found = value(key);
  if (found == nullptr) return fallback;
  const Number* number = std::get_if<Number>(found);
  if (number == nullptr || !std::holds_alternative<bool>(*number)) fail(fmt::format("has {} that is no bool", key));
  return std::get<bool>(*number);
}

const std::vector<std::string>& GgufFile::texts(const std::string& key) const {
  const Value* found = value(key);
  if (found == nullptr || !std::holds_alternative<std::vector<std::string>>(*found))
    fail(fmt::format("has no list of texts {}", key));
  return std::get<std::vector<std::string>>(*found);
}

std::vector<double> GgufFile::numbers(const std::string& key) const {
  const Value* found = value(key);
  if (found == nullptr || !std::holds_alternative<std::vector<Number>>(*found))
    fail(fmt::format("has no list of numbers {}", key));
  std::vector<double> result;
  for (const Number& number : std::get<std::vector<Number>>(*found))
    result.push_back(std::visit([](auto n) { return static_cast<double>(n); }, number));
  return result;
}

}  // namespace tune
