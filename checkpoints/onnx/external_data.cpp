#include "checkpoints/onnx/external_data.h"

#include "recipes/schema/error.h"

namespace tune {

std::uint64_t onnx_alignment(std::uint64_t bytes) { return bytes > (1u << 20) ? 65536 : 64; }

OnnxExternal OnnxDataWriter::begin(std::uint64_t bytes) {
  TUNE_CHECK(missing_bytes_ == 0, "{} bytes are missing", missing_bytes_);
  const std::uint64_t alignment = onnx_alignment(bytes), written = file_.bytes_written();
  file_.write(std::string((alignment - written % alignment) % alignment, '\0'));
  missing_bytes_ = bytes;
  return {.location = file_.path().filename().string(), .offset = file_.bytes_written(), .length = bytes};
}

void OnnxDataWriter::write(std::span<const std::byte> piece) {
  TUNE_CHECK(piece.size() <= missing_bytes_, "{} bytes, {} are missing", piece.size(), missing_bytes_);
  file_.write(piece);
  missing_bytes_ -= piece.size();
}

void OnnxDataWriter::close() {
  TUNE_CHECK(missing_bytes_ == 0, "{} bytes are missing", missing_bytes_);
  file_.close();
}

}  // namespace tune
