#include "checkpoints/gguf/writer.h"

#include <array>
#include <set>

#include "recipes/schema/error.h"

namespace tune {

namespace {

std::uint64_t padded(std::uint64_t size) { return (size + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment; }

/// The header as a string of bytes.
class Header {
 public:
  template <typename T>
  void scalar(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void type(GgufValueType type) { scalar(static_cast<std::uint32_t>(type)); }
  void text(std::string_view text) {
    scalar<std::uint64_t>(text.size());
    bytes_.append(text);
  }

  void value(std::uint16_t value) { type(GgufValueType::u16), scalar(value); }
  void value(std::int32_t value) { type(GgufValueType::i32), scalar(value); }
  void value(std::uint32_t value) { type(GgufValueType::u32), scalar(value); }
  void value(float value) { type(GgufValueType::f32), scalar(value); }
  void value(bool value) { type(GgufValueType::boolean), scalar<std::uint8_t>(value); }
  void value(const std::string& value) { type(GgufValueType::string), text(value); }
  void value(const std::vector<std::string>& values) {
    array(GgufValueType::string, values.size());
    for (const std::string& value : values) text(value);
  }
  void value(const std::vector<float>& values) {
    array(GgufValueType::f32, values.size());
    for (const float value : values) scalar(value);
  }
  void value(const std::vector<std::int32_t>& values) {
    array(GgufValueType::i32, values.size());
    for (const std::int32_t value : values) scalar(value);
  }

  const std::string& bytes() const { return bytes_; }

 private:
  void array(GgufValueType element, std::uint64_t count) {
    TUNE_CHECK(count > 0, "readers refuse empty arrays");
    type(GgufValueType::array);
    type(element);
    scalar(count);
  }

  std::string bytes_;
};

std::string format_header(const GgufMetadata& metadata, const std::vector<GgufTensorInfo>& tensors) {
  Header header;
  header.scalar(std::array{'G', 'G', 'U', 'F'});
  header.scalar(kGgufVersion);
  header.scalar<std::uint64_t>(tensors.size());
  header.scalar<std::uint64_t>(metadata.size());
  for (const auto& [key, value] : metadata) {
    header.text(key);
    std::visit([&](const auto& typed) { header.value(typed); }, value);
  }
  std::uint64_t offset = 0;
  for (const GgufTensorInfo& tensor : tensors) {
    header.text(tensor.name);
    header.scalar(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent) header.scalar(*extent);
    header.scalar(static_cast<std::uint32_t>(tensor.type));
    header.scalar(offset);
    offset += padded(stored_bytes(tensor));
  }
  return header.bytes();
}

void check_names(const GgufMetadata& metadata, const std::vector<GgufTensorInfo>& tensors) {
  std::set<std::string_view> keys, names;
  for (const auto& pair : metadata) TUNE_CHECK(keys.insert(pair.first).second, "key {} twice", pair.first);
  for (const GgufTensorInfo& tensor : tensors)
    TUNE_CHECK(!tensor.name.empty() && tensor.name.size() < 64 && names.insert(tensor.name).second, "tensor name {}",
               tensor.name);
}

}  // namespace

std::uint64_t stored_bytes(const GgufTensorInfo& tensor) {
  const GgufTypeTraits* traits = traits_of(tensor.type);
  TUNE_CHECK(traits != nullptr && !tensor.shape.empty() && tensor.shape.back() % traits->block == 0, "tensor {}",
             tensor.name);
  std::int64_t blocks = 1;
  for (const std::int64_t extent : tensor.shape) blocks *= extent;
  return static_cast<std::uint64_t>(blocks / traits->block * traits->block_bytes);
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       std::vector<GgufTensorInfo> tensors)
    : tensors_(std::move(tensors)), file_(path) {
  check_names(metadata, tensors_);
  file_.file().write(format_header(metadata, tensors_));
  pad();
  if (!tensors_.empty()) missing_bytes_ = stored_bytes(tensors_[0]);
}

void GgufWriter::write_tensor(std::string_view name, std::span<const std::byte> piece) {
  TUNE_CHECK(current_ < tensors_.size() && tensors_[current_].name == name, "{} is not the next tensor", name);
  TUNE_CHECK(piece.size() <= missing_bytes_, "{} bytes for {}, {} are missing", piece.size(), name, missing_bytes_);
  file_.file().write(piece);
  missing_bytes_ -= piece.size();
  if (missing_bytes_ > 0) return;
  pad();
  if (++current_ < tensors_.size()) missing_bytes_ = stored_bytes(tensors_[current_]);
}

void GgufWriter::close() {
  TUNE_CHECK(current_ == tensors_.size(), "{} of {} tensors written", current_, tensors_.size());
  file_.commit();
}

void GgufWriter::pad() {
  const std::uint64_t written = file_.file().bytes_written();
  file_.file().write(std::string(padded(written) - written, '\0'));
}

}  // namespace tune
