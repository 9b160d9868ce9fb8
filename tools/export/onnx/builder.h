#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoints/onnx/onnx.h"

namespace tune {

inline constexpr const char* kMicrosoft = "com.microsoft";

/// Puts a graph together, node after node. Values are known by their names; names are made here and are unique.
class OnnxGraphBuilder {
 public:
  using Names = std::vector<std::string>;

  /// opset: version of ai.onnx.
  explicit OnnxGraphBuilder(std::int64_t opset) : opset_(opset) {}

  std::int64_t opset() const { return opset_; }

  /// The following nodes are called "<scope>/<operator>_<n>".
  void enter(const std::string& scope) { scope_ = scope; }

  void input(OnnxValue value) { model_.inputs.push_back(std::move(value)); }
  void output(OnnxValue value) { model_.outputs.push_back(std::move(value)); }

  /// A node with one output; returns the output's name.
  std::string add(const std::string& op, const Names& inputs, const OnnxAttributes& attributes = {},
                  const std::string& domain = "");

  /// The same with an output that has a name already, one of the graph's outputs.
  void add_as(const std::string& output, const std::string& op, const Names& inputs,
              const OnnxAttributes& attributes = {});

  /// A node with several outputs, "" for one that nobody wants; returns the node's name.
  std::string add_with_outputs(const std::string& op, const Names& inputs, const Names& outputs,
                               const OnnxAttributes& attributes = {}, const std::string& domain = "");

  /// A name for the output of a node to come.
  std::string fresh(const std::string& what);

  /// Constants that stay in the .onnx file, because shapes are inferred from them; equal ones are one.
  std::string integer(std::int64_t value);                 // scalar
  std::string integers(std::vector<std::int64_t> values);  // one axis
  std::string number(float value);                         // scalar, fp32

  /// A constant or a weight that the caller describes.
  void initializer(OnnxTensor tensor) { model_.initializers.push_back(std::move(tensor)); }

  /// Everything so far, without what a file says of itself.
  OnnxModel& model() { return model_; }

 private:
  std::string constant(OnnxTensor tensor);

  OnnxModel model_;
  std::int64_t opset_;
  std::string scope_;
  std::int64_t count_ = 0;
  std::map<std::string, std::string> constants_;  // content -> name
};

}  // namespace tune
