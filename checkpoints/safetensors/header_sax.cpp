#include "checkpoints/safetensors/header_sax.h"

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <unordered_set>
#include <utility>

namespace tune {

namespace {

using nlohmann::json;

constexpr std::size_t kMaxTensors = 1'000'000;
constexpr std::size_t kMaxNameBytes = 64 << 10;
constexpr std::size_t kMaxAxes = 16;

template <typename... Parts>
[[noreturn]] void refuse(fmt::format_string<Parts...> text, Parts&&... parts) {
  throw std::runtime_error(fmt::format(text, std::forward<Parts>(parts)...));
}

/// Receives the JSON's parts one by one. The format has one shape only, so the depth and the last key say everything;
/// no tree of a hostile header is ever built.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  SafetensorsHeader header;

  bool start_object(std::size_t) override {
    if (in_array_) refuse("{} holds an object", where());
    if (depth_ == 1) {
      in_metadata_ = name_ == "__metadata__";
      if (!in_metadata_) header.entries.push_back({.info = {.name = name_}});
      seen_ = {};
    }
    if (++depth_ > 2) refuse("{} is an object", where());
    return true;
  }

  bool end_object() override {
    if (depth_-- == 2 && !in_metadata_ && !(seen_.dtype && seen_.shape && seen_.offsets))
      refuse("tensor \"{}\" lacks dtype, shape or data_offsets", name_);
    return true;
  }

  bool key(std::string& key) override {
    if (depth_ == 1) {
      if (key.size() > kMaxNameBytes) refuse("a tensor name is {} bytes long", key.size());
      if (names_.size() > kMaxTensors) refuse("it names more than {} tensors", kMaxTensors);
      if (!names_.insert(key).second) refuse("tensor \"{}\" occurs twice", key);
      name_ = key;
    } else if (in_metadata_) {
      if (!header.metadata.emplace(key, "").second) refuse("metadata \"{}\" occurs twice", key);
      field_ = key;
    } else {
      bool* seen = field_flag(key);
      if (seen == nullptr) refuse("tensor \"{}\" has an unknown key \"{}\"", name_, key);
      if (std::exchange(*seen, true)) refuse("tensor \"{}\" has two keys \"{}\"", name_, key);
      field_ = key;
    }
    return true;
  }

  bool string(std::string& text) override {
    if (depth_ < 2 || in_array_) refuse("{} is a string", where());
    if (in_metadata_)
      header.metadata[field_] = text;
    else if (field_ == "dtype")
      header.entries.back().info.dtype = text;
    else
      refuse("{} is a string", where());
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || in_array_ || field_ == "dtype") refuse("{} is a list", where());
    in_array_ = true;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    in_array_ = false;
    SafetensorsEntry& entry = header.entries.back();
    if (field_ == "shape") {
      entry.info.shape.assign(numbers_.begin(), numbers_.end());
    } else {
      if (numbers_.size() != 2) refuse("{} holds {} numbers", where(), numbers_.size());
      entry.begin = static_cast<std::uint64_t>(numbers_[0]);
      entry.end = static_cast<std::uint64_t>(numbers_[1]);
    }
    return true;
  }

  bool number_unsigned(std::uint64_t value) override {
    if (!in_array_) refuse("{} is a number", where());
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      refuse("{} is {}, which is too large", where(), value);
    if (numbers_.size() == kMaxAxes) refuse("{} holds more than {} numbers", where(), kMaxAxes);
    numbers_.push_back(static_cast<std::int64_t>(value));
    return true;
  }

  bool number_integer(std::int64_t value) override { refuse("{} is {}; it can't be negative", where(), value); }
  bool number_float(double, const std::string& text) override { refuse("{} is {}; it must be whole", where(), text); }
  bool null() override { refuse("{} is null", where()); }
  bool boolean(bool) override { refuse("{} is true or false", where()); }
  bool binary(json::binary_t&) override { refuse("{} is binary", where()); }
  bool parse_error(std::size_t byte, const std::string&, const json::exception&) override {
    refuse("it is not valid JSON at byte {}", byte);
  }

 private:
  struct Fields {
    bool dtype = false;
    bool shape = false;
    bool offsets = false;
  };

  bool* field_flag(std::string_view key) {
    if (key == "dtype") return &seen_.dtype;
    if (key == "shape") return &seen_.shape;
    if (key == "data_offsets") return &seen_.offsets;
    return nullptr;
  }

  std::string where() const {
    if (depth_ == 0) return "it";
    if (depth_ == 1) return fmt::format("\"{}\"", name_);
    return fmt::format("{} of {}", field_, in_metadata_ ? "the metadata" : fmt::format("tensor \"{}\"", name_));
  }

  int depth_ = 0;
  bool in_metadata_ = false;
  bool in_array_ = false;
  std::string name_;
  std::string field_;
  Fields seen_;
  std::vector<std::int64_t> numbers_;
  std::unordered_set<std::string> names_;
};

}  // namespace

SafetensorsHeader parse_header_json(std::string_view text) {
  HeaderReader reader;
  json::sax_parse(text.begin(), text.end(), &reader);
  return std::move(reader.header);
}

}  // namespace tune
