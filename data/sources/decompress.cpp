#include "data/sources/decompress.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "checkpoints/files/mapped_file.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

[[noreturn]] void throw_damaged(const MappedFile& file, const std::string& reason) {
  throw Error{
      Fault::data, {file.path().string()}, fmt::format("can't be unpacked: {}", reason), "fetch the file again"};
}

class PlainBytes final : public ByteReader {
 public:
  explicit PlainBytes(MappedFile file) : file_(std::move(file)) {}

  std::size_t read(std::span<char> buffer) override {
    file_.check_unchanged();
    const std::size_t count = std::min(buffer.size(), file_.bytes().size() - position_);
    if (count > 0) std::memcpy(buffer.data(), file_.bytes().data() + position_, count);
    position_ += count;
    return count;
  }

 private:
  MappedFile file_;
  std::size_t position_ = 0;
};

class GzipBytes final : public ByteReader {
 public:
  explicit GzipBytes(MappedFile file) : file_(std::move(file)), rest_(file_.bytes()) {
    constexpr int kGzipOnly = 16;
    TUNE_CHECK(inflateInit2(&stream_, MAX_WBITS + kGzipOnly) == Z_OK, "zlib can't start");
  }
  ~GzipBytes() override { inflateEnd(&stream_); }
  GzipBytes(const GzipBytes&) = delete;
  GzipBytes& operator=(const GzipBytes&) = delete;

  std::size_t read(std::span<char> buffer) override {
    file_.check_unchanged();
    stream_.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream_.avail_out = static_cast<uInt>(std::min<std::size_t>(buffer.size(), std::numeric_limits<uInt>::max()));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted && !(member_ended_ && rest_.empty())) inflate_some();
    return wanted - stream_.avail_out;
  }

 private:
  // Tape drives and block devices fill the last block up.
  bool only_padding_is_left() const {
    return std::all_of(rest_.begin(), rest_.end(), [](std::byte byte) { return byte == std::byte{0}; });
  }

  void inflate_some() {
    if (member_ended_ && only_padding_is_left()) {
      rest_ = {};
      return;
    }
    if (member_ended_) inflateReset(&stream_);
    member_ended_ = false;
    const auto given = static_cast<uInt>(std::min<std::size_t>(rest_.size(), std::numeric_limits<uInt>::max()));
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(rest_.data()));
    stream_.avail_in = given;
    const int code = inflate(&stream_, Z_NO_FLUSH);
    rest_ = rest_.subspan(given - stream_.avail_in);
    member_ended_ = code == Z_STREAM_END;
    if (code == Z_BUF_ERROR || (code == Z_OK && rest_.empty() && stream_.avail_out > 0))
      throw_damaged(file_, "the gzip data ends too early");
    if (code != Z_OK && code != Z_STREAM_END)
      throw_damaged(file_, stream_.msg != nullptr ? stream_.msg : "no gzip data");
  }

  MappedFile file_;
  std::span<const std::byte> rest_;
  z_stream stream_{};
  bool member_ended_ = false;
};

class ZstdBytes final : public ByteReader {
 public:
  explicit ZstdBytes(MappedFile file)
      : file_(std::move(file)), input_{file_.bytes().data(), file_.bytes().size(), 0}, stream_(ZSTD_createDStream()) {
    TUNE_CHECK(stream_ != nullptr, "libzstd can't start");
  }
  ~ZstdBytes() override { ZSTD_freeDStream(stream_); }
  ZstdBytes(const ZstdBytes&) = delete;
  ZstdBytes& operator=(const ZstdBytes&) = delete;

  std::size_t read(std::span<char> buffer) override {
    file_.check_unchanged();
    ZSTD_outBuffer output{buffer.data(), buffer.size(), 0};
    while (output.pos == 0 && !(frame_ended_ && input_.pos == input_.size)) {
      const bool input_was_used_up = input_.pos == input_.size;
      const std::size_t code = ZSTD_decompressStream(stream_, &output, &input_);
      if (ZSTD_isError(code) != 0) throw_damaged(file_, ZSTD_getErrorName(code));
      frame_ended_ = code == 0;
      if (input_was_used_up && output.pos == 0 && !frame_ended_) throw_damaged(file_, "the zstd data ends too early");
    }
    return output.pos;
  }

 private:
  MappedFile file_;
  ZSTD_inBuffer input_;
  ZSTD_DStream* stream_;
  bool frame_ended_ = false;
};

}  // namespace

std::unique_ptr<ByteReader> open_bytes(const std::filesystem::path& path) {
  MappedFile file(path);
  if (path.extension() == ".gz") return std::make_unique<GzipBytes>(std::move(file));
  if (path.extension() == ".zst") return std::make_unique<ZstdBytes>(std::move(file));
  return std::make_unique<PlainBytes>(std::move(file));
}

std::filesystem::path without_packing(const std::filesystem::path& path) {
  const bool packed = path.extension() == ".gz" || path.extension() == ".zst";
  return packed ? path.parent_path() / path.stem() : path;
}

}  // namespace tune
