#include "checkpoints/safetensors/writer.h"

#include <utility>

#include "checkpoints/safetensors/header.h"
#include "recipes/schema/error.h"

namespace tune {

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : tensors_(in_storage_order(std::move(tensors))), file_(path) {
  file_.write(format_safetensors_header(tensors_, metadata));
  if (!tensors_.empty()) missing_bytes_ = byte_size(tensors_.front());
}

void SafetensorsWriter::write_tensor(std::string_view name, std::span<const std::byte> piece) {
  if (piece.empty()) return;
  skip_finished();
  TUNE_CHECK(current_ < tensors_.size(), "{} comes after the last tensor of {}", name, file_.path().string());
  TUNE_CHECK(tensors_[current_].name == name, "{} comes where {} is due", name, tensors_[current_].name);
  TUNE_CHECK(piece.size() <= missing_bytes_, "{} has more bytes than its shape", name);
  file_.write(piece);
  missing_bytes_ -= piece.size();
}

void SafetensorsWriter::close() {
  skip_finished();
  TUNE_CHECK(current_ == tensors_.size(), "{} is not complete", tensors_[current_].name);
  file_.close();
}

/// On to the next tensor that still needs bytes; empty tensors need none.
void SafetensorsWriter::skip_finished() {
  while (current_ < tensors_.size() && missing_bytes_ == 0) {
    ++current_;
    if (current_ < tensors_.size()) missing_bytes_ = byte_size(tensors_[current_]);
  }
}

}  // namespace tune
