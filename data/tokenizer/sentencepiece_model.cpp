#include "data/tokenizer/sentencepiece_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "checkpoints/files/file_system.h"
#include "data/tokenizer/utf8.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxPieces = 1'000'000;
constexpr std::size_t kMaxPieceBytes = 1024;  // the library recurses over a piece

// Field numbers of sentencepiece_model.proto.
namespace field {
enum Model : std::uint32_t { pieces = 1, trainer_spec = 2, normalizer_spec = 3, denormalizer_spec = 5 };
enum Piece : std::uint32_t { text = 1, score = 2, type = 3 };
enum Trainer : std::uint32_t {
  model_type = 3,
  treat_whitespace_as_suffix = 24,
  byte_fallback = 35,
  unk_id = 40,
  bos_id = 41,
  eos_id = 42,
  pad_id = 43,
  unk_surface = 44,
  unk_piece = 45,
  bos_piece = 46,
  eos_piece = 47,
  pad_piece = 48
};
enum Normalizer : std::uint32_t {
  name = 1,
  precompiled_charsmap = 2,
  add_dummy_prefix = 3,
  remove_extra_whitespaces = 4,
  escape_whitespaces = 5
};
}  // namespace field

enum WireType : std::uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
enum ModelType : std::uint64_t { unigram = 1, bpe = 2 };

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw Error{Fault::data, Place{name}, what, "copy the file again from where the model was published"};
}

struct Field {
  std::uint32_t number = 0;
  std::uint32_t wire_type = 0;
  std::uint64_t value = 0;   // of a varint or fixed number
  std::string_view content;  // of bytes
};

// The fields of one protobuf message, in the file's order. Unknown ones are given, too; groups don't exist any more.
class FieldReader {
 public:
  FieldReader(std::string_view message, const std::string& name) : rest_(message), name_(name) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const std::uint64_t tag = read_varint();
    Field result{.number = static_cast<std::uint32_t>(tag >> 3), .wire_type = static_cast<std::uint32_t>(tag & 7)};
    if (tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF)
      refuse(name_, "the file is damaged: a protobuf field has no valid number");
    switch (result.wire_type) {
      case WireType::varint:
        result.value = read_varint();
        break;
      case WireType::fixed64:
        result.value = read_fixed(8);
        break;
      case WireType::fixed32:
        result.value = read_fixed(4);
        break;
      case WireType::bytes:
        result.content = take(read_varint());
        break;
      default:
        refuse(name_, fmt::format("the file is damaged: protobuf wire type {} doesn't exist", result.wire_type));
    }
    return result;
  }

 private:
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) refuse(name_, "the file is cut off: a protobuf field is longer than what is left");
    const std::string_view content = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return content;
  }

  std::uint64_t read_fixed(std::size_t count) {
    std::uint64_t value = 0;
    std::memcpy(&value, take(count).data(), count);
    return value;
  }

  std::uint64_t read_varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<std::uint8_t>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    refuse(name_, "the file is damaged: a protobuf number has more than ten bytes");
  }

  std::string_view rest_;
  const std::string& name_;
};

// Everything the library is told. It gets a message written from this, never the file's own bytes, so that nothing
// unchecked (tables of a normalizer, samples for a self-test) reaches its parser.
struct Settings {
  std::uint64_t model_type = ModelType::unigram;  // protobuf's default
  bool byte_fallback = false, treat_whitespace_as_suffix = false;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  std::int32_t unk_id = 0, bos_id = 1, eos_id = 2, pad_id = -1;
  std::string unk_surface = " \xE2\x81\x87 ";
  std::string unk_piece = "<unk>", bos_piece = "<s>", eos_piece = "</s>", pad_piece = "<pad>";
  std::string normalizer = "identity";
};

void require_wire_type(const Field& found, std::uint32_t wanted, const std::string& name) {
  if (found.wire_type != wanted)
    refuse(name, fmt::format("the file is damaged: field {} has the wrong protobuf type", found.number));
}

SentencePiece read_piece(std::string_view message, std::size_t id, const std::string& name) {
  SentencePiece piece;
  FieldReader fields(message, name);
  while (const auto found = fields.next()) {
    if (found->number == field::text) {
      require_wire_type(*found, WireType::bytes, name);
      if (found->content.size() > kMaxPieceBytes) {
        refuse(name,
               fmt::format("piece {} has {} bytes; a piece has at most {}", id, found->content.size(), kMaxPieceBytes));
      }
      piece.text = found->content;
    } else if (found->number == field::score) {
      require_wire_type(*found, WireType::fixed32, name);
      const auto bits = static_cast<std::uint32_t>(found->value);
      std::memcpy(&piece.score, &bits, sizeof bits);
    } else if (found->number == field::type) {
      require_wire_type(*found, WireType::varint, name);
      if (found->value < 1 || found->value > 6)
        refuse(name, fmt::format("piece {} is of type {}; types are 1 to 6", id, found->value));
      piece.type = static_cast<PieceType>(found->value);
    }
  }
  return piece;
}

void read_trainer(std::string_view message, Settings& settings, const std::string& name) {
  FieldReader fields(message, name);
  while (const auto found = fields.next()) {
    const auto number = [&] {
      require_wire_type(*found, WireType::varint, name);
      return found->value;
    };
    const auto text = [&] {
      require_wire_type(*found, WireType::bytes, name);
      return std::string(found->content);
    };
    const auto id = [&] { return static_cast<std::int32_t>(number()); };
    switch (found->number) {
      case field::model_type:
        settings.model_type = number();
        break;
      case field::treat_whitespace_as_suffix:
        settings.treat_whitespace_as_suffix = number() != 0;
        break;
      case field::byte_fallback:
        settings.byte_fallback = number() != 0;
        break;
      case field::unk_id:
        settings.unk_id = id();
        break;
      case field::bos_id:
        settings.bos_id = id();
        break;
      case field::eos_id:
        settings.eos_id = id();
        break;
      case field::pad_id:
        settings.pad_id = id();
        break;
      case field::unk_surface:
        settings.unk_surface = text();
        break;
      case field::unk_piece:
        settings.unk_piece = text();
        break;
      case field::bos_piece:
        settings.bos_piece = text();
        break;
      case field::eos_piece:
        settings.eos_piece = text();
        break;
      case field::pad_piece:
        settings.pad_piece = text();
        break;
      default:
        break;
    }
  }
}

void read_normalizer(std::string_view message, Settings& settings, const std::string& name) {
  FieldReader fields(message, name);
  while (const auto found = fields.next()) {
    const auto flag = [&] {
      require_wire_type(*found, WireType::varint, name);
      return found->value != 0;
    };
    switch (found->number) {
      case field::name:
        settings.normalizer = found->content;
        break;
      case field::precompiled_charsmap:
        // A crafted table makes the library read out of bounds, and Llama, Mistral and their kin have none.
        if (!found->content.empty()) {
          throw Error{Fault::data, Place{name},
                      "the tokenizer rewrites characters by a table (precompiled_charsmap), which isn't supported",
                      "use a model of the Llama or Mistral family; their tokenizers have an identity normalizer"};
        }
        break;
      case field::add_dummy_prefix:
        settings.add_dummy_prefix = flag();
        break;
      case field::remove_extra_whitespaces:
        settings.remove_extra_whitespaces = flag();
        break;
      case field::escape_whitespaces:
        settings.escape_whitespaces = flag();
        break;
      default:
        break;
    }
  }
}

void check_pieces(const std::vector<SentencePiece>& pieces, const Settings& settings, const std::string& name) {
  if (pieces.empty()) refuse(name, "the file has no pieces, so it isn't a SentencePiece model");
  std::unordered_set<std::string_view> seen;
  std::size_t byte_pieces = 0;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const SentencePiece& piece = pieces[id];
    if (piece.text.empty()) refuse(name, fmt::format("piece {} is empty", id));
    if (piece.text.size() > kMaxPieceBytes)
      refuse(name, fmt::format("piece {} has {} bytes; a piece has at most {}", id, piece.text.size(), kMaxPieceBytes));
    if (piece.text.find('\0') != std::string::npos) refuse(name, fmt::format("piece {} holds a NUL byte", id));
    if (!is_utf8(piece.text)) refuse(name, fmt::format("piece {} isn't valid UTF-8", id));
    if (!std::isfinite(piece.score)) refuse(name, fmt::format("piece {} has a score that isn't a finite number", id));
    if (!seen.insert(piece.text).second) refuse(name, fmt::format("piece {} is there twice", id));
    byte_pieces += piece.type == PieceType::byte;
    if ((piece.type == PieceType::unknown) != (static_cast<std::int64_t>(id) == settings.unk_id)) {
      refuse(name, fmt::format("piece {}: exactly the piece of unk_id {} must be of the type 'unknown'", id,
                               settings.unk_id));
    }
  }
  if (settings.byte_fallback && byte_pieces != 256) {
    refuse(name, fmt::format("byte fallback is on, but {} of the 256 byte pieces are there", byte_pieces));
  }
}

void check_settings(const Settings& settings, std::size_t piece_count, const std::string& name) {
  if (settings.model_type != ModelType::bpe && settings.model_type != ModelType::unigram) {
    refuse(name, fmt::format("model type {} isn't supported; it must be BPE (2) or unigram (1)", settings.model_type));
  }
  const auto in_vocabulary = [&](std::int32_t id) { return id >= -1 && id < static_cast<std::int64_t>(piece_count); };
  if (settings.unk_id < 0 || !in_vocabulary(settings.unk_id) || !in_vocabulary(settings.bos_id) ||
      !in_vocabulary(settings.eos_id) || !in_vocabulary(settings.pad_id)) {
    refuse(name,
           fmt::format("the ids of special pieces (unk {}, bos {}, eos {}, pad {}) must lie in the vocabulary of {}",
                       settings.unk_id, settings.bos_id, settings.eos_id, settings.pad_id, piece_count));
  }
  if (settings.treat_whitespace_as_suffix || !settings.escape_whitespaces) {
    refuse(name, "the tokenizer puts the space after a word or doesn't escape it, which isn't supported");
  }
}

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
void put_number(std::string& out, std::uint32_t number, std::int64_t value) {
  put_varint(out, std::uint64_t{number} << 3 | WireType::varint);
  put_varint(out, static_cast<std::uint64_t>(value));
}
void put_bytes(std::string& out, std::uint32_t number, std::string_view content) {
  put_varint(out, std::uint64_t{number} << 3 | WireType::bytes);
  put_varint(out, content.size());
  out += content;
}

std::string write_trainer(const Settings& settings, std::size_t piece_count) {
  constexpr std::uint32_t kVocabSize = 4;
  std::string out;
  put_number(out, field::model_type, static_cast<std::int64_t>(settings.model_type));
  put_number(out, kVocabSize, static_cast<std::int64_t>(piece_count));
  put_number(out, field::byte_fallback, settings.byte_fallback);
  put_number(out, field::unk_id, settings.unk_id);
  put_number(out, field::bos_id, settings.bos_id);
  put_number(out, field::eos_id, settings.eos_id);
  put_number(out, field::pad_id, settings.pad_id);
  put_bytes(out, field::unk_surface, settings.unk_surface);
  put_bytes(out, field::unk_piece, settings.unk_piece);
  put_bytes(out, field::bos_piece, settings.bos_piece);
  put_bytes(out, field::eos_piece, settings.eos_piece);
  put_bytes(out, field::pad_piece, settings.pad_piece);
  return out;
}

std::string write_normalizer(const Settings& settings) {
  std::string out;
  put_bytes(out, field::name, settings.normalizer);
  put_number(out, field::add_dummy_prefix, settings.add_dummy_prefix);
  put_number(out, field::remove_extra_whitespaces, settings.remove_extra_whitespaces);
  put_number(out, field::escape_whitespaces, settings.escape_whitespaces);
  return out;
}

std::string write_piece(const SentencePiece& piece) {
  std::string out;
  put_bytes(out, field::text, piece.text);
  put_varint(out, std::uint64_t{field::score} << 3 | WireType::fixed32);
  out.append(reinterpret_cast<const char*>(&piece.score), sizeof piece.score);
  if (piece.type != PieceType::normal) put_number(out, field::type, static_cast<std::int64_t>(piece.type));
  return out;
}

SentencePieceModel checked_model(std::vector<SentencePiece> pieces, const Settings& settings, const std::string& name) {
  check_settings(settings, pieces.size(), name);
  check_pieces(pieces, settings, name);
  SentencePieceModel model;
  for (const SentencePiece& piece : pieces) put_bytes(model.bytes, field::pieces, write_piece(piece));
  put_bytes(model.bytes, field::trainer_spec, write_trainer(settings, pieces.size()));
  put_bytes(model.bytes, field::normalizer_spec, write_normalizer(settings));
  model.pieces = std::move(pieces);
  model.unk_id = settings.unk_id;
  model.bos_id = settings.bos_id;
  model.eos_id = settings.eos_id;
  model.pad_id = settings.pad_id;
  model.bpe = settings.model_type == ModelType::bpe;
  model.add_dummy_prefix = settings.add_dummy_prefix;
  return model;
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view file, const std::string& name) {
  if (file.size() > kMaxFileBytes)
    refuse(name, fmt::format("the file has {} bytes; a tokenizer has at most {}", file.size(), kMaxFileBytes));
  Settings settings;
  std::vector<SentencePiece> pieces;
  FieldReader fields(file, name);
  while (const auto found = fields.next()) {
    const bool known = found->number == field::pieces || found->number == field::trainer_spec ||
                       found->number == field::normalizer_spec || found->number == field::denormalizer_spec;
    if (!known) continue;
    require_wire_type(*found, WireType::bytes, name);
    switch (found->number) {
      case field::pieces:
        if (pieces.size() == kMaxPieces) refuse(name, fmt::format("the file has more than {} pieces", kMaxPieces));
        pieces.push_back(read_piece(found->content, pieces.size(), name));
        break;
      case field::trainer_spec:
        read_trainer(found->content, settings, name);
        break;
      case field::normalizer_spec:
        read_normalizer(found->content, settings, name);
        break;
      default: {
        Settings unused;
        read_normalizer(found->content, unused, name);
      }
    }
  }
  return checked_model(std::move(pieces), settings, name);
}

SentencePieceModel read_sentencepiece_model(const std::filesystem::path& path) {
  return parse_sentencepiece_model(read_text(path, kMaxFileBytes), path.string());
}

SentencePieceModel make_sentencepiece_model(std::vector<SentencePiece> pieces, std::int32_t unk_id, std::int32_t bos_id,
                                            std::int32_t eos_id, bool add_dummy_prefix, const std::string& name) {
  Settings settings{.model_type = ModelType::bpe,
                    .byte_fallback = true,
                    .add_dummy_prefix = add_dummy_prefix,
                    .remove_extra_whitespaces = false,
                    .unk_id = unk_id,
                    .bos_id = bos_id,
                    .eos_id = eos_id};
  // The library finds its special pieces by these names.
  const auto text_of = [&](std::int32_t id, const std::string& otherwise) {
    return id >= 0 && id < static_cast<std::int64_t>(pieces.size()) ? pieces[id].text : otherwise;
  };
  settings.unk_piece = text_of(unk_id, settings.unk_piece);
  settings.bos_piece = text_of(bos_id, settings.bos_piece);
  settings.eos_piece = text_of(eos_id, settings.eos_piece);
  return checked_model(std::move(pieces), settings, name);
}

}  // namespace tune
