#include "checkpoints/onnx/adapter_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "recipes/schema/error.h"

namespace tune {

namespace {

/// A FlatBuffer that somebody else wrote (flatbuffers.dev/internals). Nothing is read outside of its bytes.
class FlatReader {
 public:
  FlatReader(std::span<const std::byte> bytes, const std::filesystem::path& path) : bytes_(bytes), path_(path) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw Error{Fault::data,
                {path_.string()},
                "is no adapter for onnxruntime, or a damaged one: " + what,
                "write it or fetch it again"};
  }

  std::span<const std::byte> part(std::size_t at, std::size_t count) const {
    if (at > bytes_.size() || count > bytes_.size() - at) fail("it is cut off");
    return bytes_.subspan(at, count);
  }

  template <typename T>
  T at(std::size_t place) const {
    T value;
    std::memcpy(&value, part(place, sizeof value).data(), sizeof value);
    return value;
  }

  /// What the reference at `place` points to.
  std::size_t follow(std::size_t place) const { return place + at<std::uint32_t>(place); }

  /// Where a table's field lies. A table begins with how far before it its layout lies.
  std::size_t field(std::size_t table, std::size_t index) const {
    const std::size_t layout = table - static_cast<std::size_t>(std::int64_t{at<std::int32_t>(table)});
    const std::size_t entry = 2 * sizeof(std::uint16_t) + index * sizeof(std::uint16_t);
    const auto distance = entry < at<std::uint16_t>(layout) ? at<std::uint16_t>(layout + entry) : std::uint16_t{0};
    if (distance == 0) fail("a field is missing");
    return table + distance;
  }

  struct List {
    std::size_t begin, count;
  };
  /// The list that the field refers to.
  List list(std::size_t table, std::size_t index) const {
    const std::size_t place = follow(field(table, index));
    return {place + sizeof(std::uint32_t), at<std::uint32_t>(place)};
  }

 private:
  std::span<const std::byte> bytes_;
  const std::filesystem::path& path_;
};

OnnxStoredTensor read_parameter(const FlatReader& reader, std::size_t table) {
  OnnxStoredTensor parameter;
  const FlatReader::List name = reader.list(table, 0), dims = reader.list(table, 1), data = reader.list(table, 3);
  const auto letters = reader.part(name.begin, name.count);
  parameter.name.assign(reinterpret_cast<const char*>(letters.data()), letters.size());
  reader.part(dims.begin, dims.count * sizeof(std::int64_t));
  for (std::size_t i = 0; i < dims.count; ++i)
    parameter.dims.push_back(reader.at<std::int64_t>(dims.begin + i * sizeof(std::int64_t)));
  parameter.type = static_cast<OnnxType>(reader.at<std::int32_t>(reader.field(table, 2)));
  parameter.bytes = reader.part(data.begin, data.count);
  const bool is_negative =
      std::any_of(parameter.dims.begin(), parameter.dims.end(), [](std::int64_t dim) { return dim < 0; });
  const auto wanted = is_negative ? std::nullopt : onnx_stored_bytes(parameter.type, parameter.dims);
  if (!wanted || *wanted != data.count)
    reader.fail(fmt::format("{} has {} bytes, which aren't as many as its shape needs", parameter.name, data.count));
  return parameter;
}

}  // namespace

OnnxAdapterFile::OnnxAdapterFile(const std::filesystem::path& path) : file_(path) {
  const FlatReader reader(file_.bytes(), file_.path());
  const auto mark = reader.part(sizeof(std::uint32_t), 4);
  if (std::memcmp(mark.data(), "TORT", mark.size()) != 0) reader.fail("it doesn't say TORT");
  const FlatReader::List list = reader.list(reader.follow(0), 3);
  reader.part(list.begin, list.count * sizeof(std::uint32_t));
  for (std::size_t i = 0; i < list.count; ++i)
    parameters_.push_back(read_parameter(reader, reader.follow(list.begin + i * sizeof(std::uint32_t))));
}

}  // namespace tune
