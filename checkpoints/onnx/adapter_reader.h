#pragma once
#include <filesystem>
#include <vector>

#include "checkpoints/files/mapped_file.h"
#include "checkpoints/onnx/reader.h"

namespace tune {

/// A .onnx_adapter file, opened. Move-only.
class OnnxAdapterFile {
 public:
  /// Error{Fault::data} for a file that is no adapter, is cut off, or has a parameter whose bytes aren't as many as its
  /// shape needs.
  explicit OnnxAdapterFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }

  /// Values for the graph's inputs of the same names.
  const std::vector<OnnxStoredTensor>& parameters() const { return parameters_; }

  void check_unchanged() const { file_.check_unchanged(); }

 private:
  MappedFile file_;
  std::vector<OnnxStoredTensor> parameters_;
};

}  // namespace tune
