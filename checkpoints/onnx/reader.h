#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/files/mapped_file.h"
#include "checkpoints/onnx/onnx.h"
#include "checkpoints/onnx/protobuf.h"

namespace tune {

/// A decoder's file in its folder.
inline constexpr const char* kOnnxModelFile = "model.onnx";

/// A tensor that is stored with a model. `bytes` lie in memory-mapped files; empty for one that is stored value by
/// value (float_data and the like), which large ones never are.
struct OnnxStoredTensor {
  std::string name;
  OnnxType type = OnnxType::float32;
  std::vector<std::int64_t> dims;
  std::string location;  // file in the model's folder; empty = the .onnx file itself
  std::span<const std::byte> bytes;
};

/// A node of the graph, without what graphs inside of it hold.
struct OnnxStoredNode {
  std::string op;                                // as operators() names it
  std::vector<std::string> inputs, outputs;      // "" for one that isn't given
  std::map<std::string, std::int64_t> integers;  // those attributes that are one
};

/// A .onnx file and the data files that it names, opened for looking at, whoever wrote it. Move-only.
class OnnxFile {
 public:
  /// Checks that every tensor's bytes lie inside its file and are as many as its shape needs.
  /// Error{Fault::data} with file and tensor where they aren't, and for a file that is no ONNX model, or cut off.
  explicit OnnxFile(const std::filesystem::path& path);

  std::int64_t ir_version() const { return ir_version_; }
  const std::string& producer() const { return producer_; }  // "tune 0.1.0"
  const std::vector<std::pair<std::string, std::int64_t>>& opsets() const { return opsets_; }
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }
  const std::vector<OnnxValue>& inputs() const { return inputs_; }
  const std::vector<OnnxValue>& outputs() const { return outputs_; }

  /// How often each operator occurs, those of inner graphs included: "MatMul", "com.microsoft.MatMulNBits".
  const std::map<std::string, std::int64_t>& operators() const { return operators_; }
  const std::vector<OnnxStoredTensor>& tensors() const { return tensors_; }
  const std::vector<OnnxStoredNode>& nodes() const { return nodes_; }  // each after those whose outputs it takes

  const std::filesystem::path& path() const { return file_.path(); }

  /// As MappedFile's, of all files.
  void check_unchanged() const;
  void release(std::span<const std::byte> bytes) const;

  /// The .onnx file, then the data files.
  std::vector<std::filesystem::path> files() const;

 private:
  void read_model(ProtobufReader model);
  void read_graph(ProtobufReader graph, int depth);
  void read_node(ProtobufReader node, int depth);
  void read_attribute(ProtobufReader attribute, int depth, OnnxStoredNode& node);
  void read_tensor(ProtobufReader tensor);
  void place(const std::map<std::string, std::string>& external, OnnxStoredTensor& tensor);
  std::span<const std::byte> data_of(const std::string& location, const std::string& tensor);
  [[noreturn]] void fail(const std::filesystem::path& file, const std::string& what) const;

  MappedFile file_;
  std::string name_;                              // of the .onnx file, for messages
  std::map<std::string, MappedFile> data_files_;  // by location
  std::int64_t ir_version_ = 0;
  std::string producer_;
  std::vector<std::pair<std::string, std::int64_t>> opsets_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::vector<OnnxValue> inputs_, outputs_;
  std::map<std::string, std::int64_t> operators_;
  std::vector<OnnxStoredTensor> tensors_;
  std::vector<OnnxStoredNode> nodes_;
};

}  // namespace tune
