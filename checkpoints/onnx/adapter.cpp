#include "checkpoints/onnx/adapter.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "checkpoints/files/atomic_file.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::uint32_t kFormatVersion = 1;

/// A FlatBuffer written from front to back. A reference says how far ahead its target lies; it is put open, and set
/// when its target is reached.
class Buffer {
 public:
  std::size_t size() const { return bytes_.size(); }
  const std::string& bytes() const { return bytes_; }

  template <typename T>
  void put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  std::size_t put_reference() {
    put<std::uint32_t>(0);
    return size() - sizeof(std::uint32_t);
  }
  void point(std::size_t reference, std::size_t target) {
    const auto distance = static_cast<std::uint32_t>(target - reference);
    std::memcpy(bytes_.data() + reference, &distance, sizeof distance);
  }

  /// A list begins with its length, 4 bytes; its elements are aligned. Where the list is.
  std::size_t begin_list(std::size_t count, std::size_t alignment) {
    while ((size() + sizeof(std::uint32_t)) % alignment != 0 || size() % sizeof(std::uint32_t) != 0) put('\0');
    put(static_cast<std::uint32_t>(count));
    return size() - sizeof(std::uint32_t);
  }

  /// Where the fields of a table lie: behind the distance to this, four of 4 bytes each, which both of ours have.
  void put_table_layout() {
    layout_ = size();
    for (const std::uint16_t value : {12, 20, 4, 8, 12, 16}) put(value);
  }
  std::size_t begin_table() {
    put(static_cast<std::int32_t>(size() - layout_));
    return size() - sizeof(std::int32_t);
  }

 private:
  std::string bytes_;
  std::size_t layout_ = 0;
};

/// The references of one parameter that are still open.
struct Open {
  std::size_t name, dims, data;
};

/// The file up to the first parameter's bytes, and where each parameter's list of bytes begins.
struct Layout {
  std::string head;
  std::vector<std::uint64_t> places;
};

std::uint64_t byte_count(const OnnxAdapterParameter& parameter) {
  return onnx_stored_bytes(parameter.type, parameter.dims).value();
}

/// Every parameter's table.
std::vector<Open> put_tables(const std::vector<OnnxAdapterParameter>& parameters, Buffer& buffer) {
  std::vector<std::size_t> references(parameters.size());
  buffer.begin_list(parameters.size(), sizeof(std::uint32_t));
  for (std::size_t& reference : references) reference = buffer.put_reference();
  std::vector<Open> open;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    buffer.point(references[i], buffer.begin_table());
    const std::size_t name = buffer.put_reference(), dims = buffer.put_reference();
    buffer.put(static_cast<std::int32_t>(parameters[i].type));
    open.push_back({name, dims, buffer.put_reference()});
  }
  return open;
}

void put_name_and_dims(const OnnxAdapterParameter& parameter, const Open& open, Buffer& buffer) {
  buffer.point(open.name, buffer.begin_list(parameter.name.size(), 1));
  for (const char letter : parameter.name) buffer.put(letter);
  buffer.put('\0');
  buffer.point(open.dims, buffer.begin_list(parameter.dims.size(), sizeof(std::int64_t)));
  for (const std::int64_t dim : parameter.dims) buffer.put(dim);
}

/// Where a list of bytes may begin at or behind `end`: its bytes are aligned to 8, its length stands before them.
std::uint64_t place_behind(std::uint64_t end) { return (end + 4 + 7) / 8 * 8 - 4; }

Layout lay_out(const std::vector<OnnxAdapterParameter>& parameters, const std::filesystem::path& path) {
  Buffer buffer;
  const std::size_t root = buffer.put_reference();
  for (const char letter : {'T', 'O', 'R', 'T'}) buffer.put(letter);
  buffer.put_table_layout();
  buffer.point(root, buffer.begin_table());
  for (const std::uint32_t version : {kFormatVersion, 1u, 1u}) buffer.put(version);  // of format, adapter and model
  const std::size_t list = buffer.put_reference();
  buffer.point(list, buffer.size());
  const std::vector<Open> open = put_tables(parameters, buffer);
  for (std::size_t i = 0; i < parameters.size(); ++i) put_name_and_dims(parameters[i], open[i], buffer);
  std::vector<std::uint64_t> places;
  std::uint64_t end = buffer.size();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    places.push_back(place_behind(end));
    end = places.back() + sizeof(std::uint32_t) + byte_count(parameters[i]);
    if (end > std::numeric_limits<std::int32_t>::max())
      throw Error{Fault::data, {path.string()}, "would be larger than 2 GiB", "merge the adapter into the weights"};
    buffer.point(open[i].data, places.back());
  }
  return {buffer.bytes(), std::move(places)};
}

}  // namespace

void write_onnx_adapter(const std::filesystem::path& path, const std::vector<OnnxAdapterParameter>& parameters,
                        const std::function<std::vector<std::byte>(std::size_t parameter)>& bytes_of) {
  const Layout layout = lay_out(parameters, path);
  AtomicFile file(path);
  file.file().write(layout.head);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::vector<std::byte> bytes = bytes_of(i);
    TUNE_CHECK(bytes.size() == byte_count(parameters[i]), "{} bytes for {}", bytes.size(), parameters[i].name);
    file.file().write(std::string(layout.places[i] - file.file().bytes_written(), '\0'));
    const auto count = static_cast<std::uint32_t>(bytes.size());
    file.file().write(std::as_bytes(std::span(&count, 1)));
    file.file().write(bytes);
  }
  file.commit();
}

}  // namespace tune
