#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "checkpoints/files/mapped_file.h"

namespace tune {

// GGUF, version 3 (and 2, which has the same bytes), little-endian:
//   1  "GGUF", u32 version, u64 tensors, u64 pairs
//   2  each pair: string key, u32 value type, value          string: u64 bytes, then the bytes
//      an array's value: u32 element type, u64 elements, the elements; no arrays of arrays
//   3  each tensor: string name, u32 dimensions, i64 each (innermost first), u32 element type, u64 offset
//   4  zeros up to a multiple of general.alignment (u32, a power of two, default 32) from the start of the file
//   5  tensor data; offset 0 is here, each tensor is padded with zeros to the alignment, there are no gaps

inline constexpr std::uint32_t kGgufVersion = 3;
inline constexpr std::uint64_t kGgufAlignment = 32;

/// How the elements of a tensor are stored; the values are the file's. Those that we compute with; a file may hold
/// others, which can only be listed.
enum class GgufType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30
};

/// The type of a metadata value; the values are the file's.
enum class GgufValueType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

struct GgufTypeTraits {
  const char* name;          // "Q8_0"
  std::int64_t block;        // elements a block
  std::int64_t block_bytes;  // and their stored size
};

/// nullptr for a type that isn't ggml's.
const GgufTypeTraits* traits_of(GgufType type);

/// True for the members of GgufType, which dequantize() reads.
bool is_readable(GgufType type);

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::f32;
  std::vector<std::int64_t> shape;  // outermost first, as everywhere else here
  std::span<const std::byte> bytes;
};

/// An opened file, mapped; move-only, spans stay valid when it is moved. Of a model that is split over several files,
/// the first one opens the others and has the tensors of all. Everything is checked before it is used:
/// counts and lengths against the bytes that are left, products against overflow, types against ggml's list.
class GgufFile {
 public:
  /// Error{Fault::data} naming the file and what is wrong with it, a part that is missing included.
  explicit GgufFile(const std::filesystem::path& path);

  /// This one file, whatever it is a part of.
  static GgufFile alone(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  std::uint64_t size_bytes() const;                  // of all parts
  std::vector<std::filesystem::path> files() const;  // the parts
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find(std::string_view name) const;

  bool has(const std::string& key) const;
  std::vector<std::string> keys() const;

  // Each throws Error{Fault::data} when the key is missing (and no fallback is given) or of another type.
  std::string text(const std::string& key, std::optional<std::string> fallback = std::nullopt) const;
  std::int64_t integer(const std::string& key, std::optional<std::int64_t> fallback = std::nullopt) const;
  double real(const std::string& key, std::optional<double> fallback = std::nullopt) const;
  bool boolean(const std::string& key, bool fallback) const;
  const std::vector<std::string>& texts(const std::string& key) const;
  std::vector<double> numbers(const std::string& key) const;

  /// As MappedFile's.
  void check_unchanged() const;
  void release(std::span<const std::byte> bytes) const;

 private:
  friend class GgufParser;
  using Number = std::variant<std::int64_t, std::uint64_t, double, bool>;
  using Value = std::variant<Number, std::string, std::vector<Number>, std::vector<std::string>>;

  explicit GgufFile(MappedFile file);
  void append_parts();
  const Value* value(const std::string& key) const;
  [[noreturn]] void fail(const std::string& what) const;

  MappedFile file_;
  std::vector<MappedFile> other_parts_;
  std::map<std::string, Value> pairs_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace tune
