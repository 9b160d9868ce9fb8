#include "checkpoints/onnx/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>

#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr int kDeepest = 32;  // graphs inside of graphs

std::pair<std::string, std::string> read_pair(ProtobufReader message) {
  std::pair<std::string, std::string> pair;
  while (message.next()) {
    if (message.field() == 1) pair.first = message.text();
    if (message.field() == 2) pair.second = message.text();
  }
  return pair;
}

std::pair<std::string, std::int64_t> read_opset(ProtobufReader message) {
  std::pair<std::string, std::int64_t> opset;
  while (message.next()) {
    if (message.field() == 1) opset.first = message.text();
    if (message.field() == 2) opset.second = message.integer();
  }
  return opset;
}

OnnxDim read_dim(ProtobufReader message) {
  OnnxDim dim = std::string("?");
  while (message.next()) {
    if (message.field() == 1) dim = message.integer();
    if (message.field() == 2) dim = message.text();
  }
  return dim;
}

void read_shape(ProtobufReader message, OnnxValue& value) {
  while (message.next())
    if (message.field() == 1) value.shape.push_back(read_dim(message.message()));
}

void read_tensor_type(ProtobufReader message, OnnxValue& value) {
  while (message.next()) {
    if (message.field() == 1) value.type = static_cast<OnnxType>(message.integer());
    if (message.field() == 2) read_shape(message.message(), value);
  }
}

OnnxValue read_value(ProtobufReader message) {
  OnnxValue value;
  while (message.next()) {
    if (message.field() == 1) value.name = message.text();
    if (message.field() != 2) continue;
    for (ProtobufReader type = message.message(); type.next();)
      if (type.field() == 1) read_tensor_type(type.message(), value);
  }
  return value;
}

/// "offset" and "length" are written as decimal digits.
std::uint64_t number_of(const std::map<std::string, std::string>& external, const std::string& key,
                        std::uint64_t otherwise, const std::function<void(const std::string&)>& fail) {
  const auto found = external.find(key);
  if (found == external.end()) return otherwise;
  const std::string& text = found->second;
  std::uint64_t value = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (fault != std::errc() || end != text.data() + text.size())
    fail(fmt::format("its {} is \"{}\", no number", key, text));
  return value;
}

/// A plain file in the model's folder: what onnxruntime takes, too.
bool stays_in_folder(const fs::path& location) {
  if (location.empty() || location.is_absolute() || !location.has_filename()) return false;
  return std::none_of(location.begin(), location.end(), [](const fs::path& part) { return part == ".."; });
}

}  // namespace

OnnxFile::OnnxFile(const fs::path& path) : file_(path), name_(path.string()) { read_model({file_.bytes(), name_}); }

void OnnxFile::fail(const fs::path& file, const std::string& what) const {
  throw Error{Fault::data, {file.string()}, what, "write it or fetch it again"};
}

void OnnxFile::read_model(ProtobufReader model) {
  bool has_graph = false;
  std::string version;
  while (model.next()) {
    switch (model.field()) {
      case 1:
        ir_version_ = model.integer();
        break;
      case 2:
        producer_ = model.text();
        break;
      case 3:
        version = model.text();
        break;
      case 7:
        has_graph = true;
        read_graph(model.message(), 0);
        break;
      case 8:
        opsets_.push_back(read_opset(model.message()));
        break;
      case 14:
        metadata_.push_back(read_pair(model.message()));
        break;
      default:
        break;
    }
  }
  if (!has_graph || ir_version_ < 1 || opsets_.empty()) model.fail("it has no graph, no version or no operator set");
  if (!version.empty()) producer_ += " " + version;
}

void OnnxFile::read_graph(ProtobufReader graph, int depth) {
  if (depth > kDeepest) graph.fail("graphs inside of graphs without an end");
  while (graph.next()) {
    if (graph.field() == 1) read_node(graph.message(), depth);
    if (graph.field() == 5) read_tensor(graph.message());
    if (depth > 0) continue;
    if (graph.field() == 11) inputs_.push_back(read_value(graph.message()));
    if (graph.field() == 12) outputs_.push_back(read_value(graph.message()));
  }
}

void OnnxFile::read_node(ProtobufReader node, int depth) {
  std::string type, domain;
  OnnxStoredNode stored;
  while (node.next()) {
    if (node.field() == 1) stored.inputs.push_back(node.text());
    if (node.field() == 2) stored.outputs.push_back(node.text());
    if (node.field() == 4) type = node.text();
    if (node.field() == 5) read_attribute(node.message(), depth, stored);
    if (node.field() == 7) domain = node.text();
  }
  if (type.empty()) node.fail("a node without an operator");
  stored.op = domain.empty() || domain == "ai.onnx" ? type : domain + "." + type;
  ++operators_[stored.op];
  if (depth == 0) nodes_.push_back(std::move(stored));
}

void OnnxFile::read_attribute(ProtobufReader attribute, int depth, OnnxStoredNode& node) {
  std::string name;
  std::optional<std::int64_t> integer;
  while (attribute.next()) {
    if (attribute.field() == 1) name = attribute.text();
    if (attribute.field() == 3) integer = attribute.integer();
    if (attribute.field() == 6 || attribute.field() == 11) read_graph(attribute.message(), depth + 1);
  }
  if (integer) node.integers.emplace(name, *integer);
}

void OnnxFile::read_tensor(ProtobufReader tensor) {
  OnnxStoredTensor stored;
  std::map<std::string, std::string> external;
  bool is_external = false, has_raw = false;
  while (tensor.next()) {
    switch (tensor.field()) {
      case 1:
        for (const std::int64_t dim : tensor.integers()) stored.dims.push_back(dim);
        break;
      case 2:
        stored.type = static_cast<OnnxType>(tensor.integer());
        break;
      case 8:
        stored.name = tensor.text();
        break;
      case 9:
        stored.bytes = tensor.bytes();
        has_raw = true;
        break;
      case 13:
        external.insert(read_pair(tensor.message()));
        break;
      case 14:
        is_external = tensor.integer() == 1;
        break;
      default:
        break;
    }
  }
  if (std::any_of(stored.dims.begin(), stored.dims.end(), [](std::int64_t dim) { return dim < 0; }))
    fail(name_, fmt::format("tensor {} has a negative size", stored.name));
  if (is_external) place(external, stored);
  const auto wanted = onnx_stored_bytes(stored.type, stored.dims);
  if ((is_external || has_raw) && wanted && *wanted != stored.bytes.size())
    fail(name_, fmt::format("tensor {} has {} bytes, its shape needs {}", stored.name, stored.bytes.size(), *wanted));
  tensors_.push_back(std::move(stored));
}

void OnnxFile::place(const std::map<std::string, std::string>& external, OnnxStoredTensor& tensor) {
  const auto location = external.find("location");
  const auto refuse = [&](const std::string& what) { fail(name_, fmt::format("tensor {}: {}", tensor.name, what)); };
  if (location == external.end() || !stays_in_folder(location->second))
    refuse("it names no file of the model's folder");
  tensor.location = location->second;
  const std::span<const std::byte> data = data_of(tensor.location, tensor.name);
  const std::uint64_t offset = number_of(external, "offset", 0, refuse);
  const std::uint64_t rest = offset > data.size() ? 0 : data.size() - offset;
  const std::uint64_t length = number_of(external, "length", rest, refuse);
  if (offset > data.size() || length > rest)
    fail(data_files_.at(tensor.location).path(), fmt::format("is cut off: tensor {} is {} bytes at {}, the file has {}",
                                                             tensor.name, length, offset, data.size()));
  tensor.bytes = data.subspan(offset, length);
}

std::span<const std::byte> OnnxFile::data_of(const std::string& location, const std::string& tensor) {
  if (const auto found = data_files_.find(location); found != data_files_.end()) return found->second.bytes();
  const fs::path path = fs::path(name_).parent_path() / location;
  if (!fs::is_regular_file(path)) fail(path, fmt::format("is missing; tensor {} and perhaps others lie in it", tensor));
  return data_files_.emplace(location, MappedFile(path)).first->second.bytes();
}

std::vector<fs::path> OnnxFile::files() const {
  std::vector<fs::path> files = {file_.path()};
  for (const auto& [location, file] : data_files_) files.push_back(file.path());
  return files;
}

void OnnxFile::check_unchanged() const {
  file_.check_unchanged();
  for (const auto& [location, file] : data_files_) file.check_unchanged();
}

void OnnxFile::release(std::span<const std::byte> bytes) const {
  const auto holds = [&](const MappedFile& file) {
    return bytes.data() >= file.bytes().data() && bytes.data() < file.bytes().data() + file.bytes().size();
  };
  for (const auto& [location, file] : data_files_)
    if (holds(file)) return file.release(bytes);
}

}  // namespace tune
