#include "checkpoints/gguf/gguf.h"

#include <fmt/format.h>

#include <set>

#include "checkpoints/gguf/parser.h"
#include "checkpoints/gguf/parts.h"
#include "recipes/schema/error.h"

namespace tune {

const GgufTypeTraits* traits_of(GgufType type) {
  static const std::map<std::uint32_t, GgufTypeTraits> kTypes = {
      {0, {"F32", 1, 4}},         {1, {"F16", 1, 2}},        {2, {"Q4_0", 32, 18}},      {3, {"Q4_1", 32, 20}},
      {6, {"Q5_0", 32, 22}},      {7, {"Q5_1", 32, 24}},     {8, {"Q8_0", 32, 34}},      {10, {"Q2_K", 256, 84}},
      {11, {"Q3_K", 256, 110}},   {12, {"Q4_K", 256, 144}},  {13, {"Q5_K", 256, 176}},   {14, {"Q6_K", 256, 210}},
      {16, {"IQ2_XXS", 256, 66}}, {17, {"IQ2_XS", 256, 74}}, {18, {"IQ3_XXS", 256, 98}}, {19, {"IQ1_S", 256, 50}},
      {20, {"IQ4_NL", 32, 18}},   {21, {"IQ3_S", 256, 110}}, {22, {"IQ2_S", 256, 82}},   {23, {"IQ4_XS", 256, 136}},
      {24, {"I8", 1, 1}},         {25, {"I16", 1, 2}},       {26, {"I32", 1, 4}},        {27, {"I64", 1, 8}},
      {28, {"F64", 1, 8}},        {29, {"IQ1_M", 256, 56}},  {30, {"BF16", 1, 2}},       {34, {"TQ1_0", 256, 54}},
      {35, {"TQ2_0", 256, 66}},   {39, {"MXFP4", 32, 17}},
  };
  const auto found = kTypes.find(static_cast<std::uint32_t>(type));
  return found == kTypes.end() ? nullptr : &found->second;
}

bool is_readable(GgufType type) {
  switch (type) {
    case GgufType::f32:
    case GgufType::f16:
    case GgufType::bf16:
    case GgufType::q4_0:
    case GgufType::q4_1:
    case GgufType::q5_0:
    case GgufType::q5_1:
    case GgufType::q8_0:
    case GgufType::q4_k:
    case GgufType::q5_k:
    case GgufType::q6_k:
      return true;
  }
  return false;
}

GgufFile::GgufFile(MappedFile file) : file_(std::move(file)) { GgufParser(*this).parse(); }

GgufFile::GgufFile(const std::filesystem::path& path) : GgufFile(MappedFile(path)) { append_parts(); }

GgufFile GgufFile::alone(const std::filesystem::path& path) { return GgufFile(MappedFile(path)); }

void GgufFile::append_parts() {
  const std::int64_t count = integer(kPartCountKey, 1), number = integer(kPartNumberKey, 0) + 1;
  if (count == 1) return;
  if (count < 1 || count > 99999 || number < 1 || number > count) fail(fmt::format("is part {} of {}", number, count));
  const auto parts = static_cast<std::size_t>(count);
  const std::filesystem::path whole = gguf_whole_path(path(), static_cast<std::size_t>(number), parts);
  if (whole.empty())
    throw Error{Fault::data,
                {path().string()},
                fmt::format("is part {} of {}, but isn't named so", number, count),
                fmt::format("give it the name it had: {}", gguf_part_path("NAME.gguf", number, parts).string())};
  if (number > 1)
    throw Error{Fault::data,
                {path().string()},
                fmt::format("is part {} of {}", number, count),
                fmt::format("give the first one, {}", gguf_part_path(whole, 1, parts).filename().string())};
  for (std::size_t i = 2; i <= parts; ++i) {
    GgufFile part = alone(gguf_part_path(whole, i, parts));
    if (part.integer(kPartCountKey, 1) != count || part.integer(kPartNumberKey, 0) + 1 != static_cast<std::int64_t>(i))
      part.fail(fmt::format("says of itself that it is another part than {} of {}", i, count));
    for (GgufTensor& tensor : part.tensors_) tensors_.push_back(std::move(tensor));
    other_parts_.push_back(std::move(part.file_));
  }
  std::set<std::string_view> names;
  for (const GgufTensor& tensor : tensors_)
    if (!names.insert(tensor.name).second)
      fail(fmt::format("and its other parts have the tensor {} twice", tensor.name));
  if (const std::int64_t wanted = integer(kPartTensorsKey); wanted != static_cast<std::int64_t>(tensors_.size()))
    fail(fmt::format("and its other parts have {} tensors of {}", tensors_.size(), wanted));
}

std::uint64_t GgufFile::size_bytes() const {
  std::uint64_t sum = file_.bytes().size();
  for (const MappedFile& part : other_parts_) sum += part.bytes().size();
  return sum;
}

std::vector<std::filesystem::path> GgufFile::files() const {
  std::vector<std::filesystem::path> files = {path()};
  for (const MappedFile& part : other_parts_) files.push_back(part.path());
  return files;
}

void GgufFile::check_unchanged() const {
  file_.check_unchanged();
  for (const MappedFile& part : other_parts_) part.check_unchanged();
}

void GgufFile::release(std::span<const std::byte> bytes) const {
  const auto holds = [&](const MappedFile& part) {
    return bytes.data() >= part.bytes().data() && bytes.data() < part.bytes().data() + part.bytes().size();
  };
  if (holds(file_)) return file_.release(bytes);
  for (const MappedFile& part : other_parts_)
    if (holds(part)) return part.release(bytes);
}

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
