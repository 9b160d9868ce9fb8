#include "checkpoints/safetensors/pickle.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "checkpoints/safetensors/original_layout.h"
#include "recipes/schema/error.h"

namespace tune {

bool looks_like_pickle(std::span<const std::byte> bytes) {
  std::array<unsigned char, 9> start{};
  if (bytes.size() < start.size()) return false;
  std::memcpy(start.data(), bytes.data(), start.size());
  if (std::memcmp(start.data(), "PK\x03\x04", 4) == 0) return true;
  // a safetensors header of 640 bytes begins with 0x80 0x02, too; but zeros and a brace follow there
  const bool safetensors = start[4] == 0 && start[5] == 0 && start[6] == 0 && start[7] == 0 && start[8] == '{';
  return start[0] == 0x80 && start[1] >= 2 && start[1] <= 5 && !safetensors;
}

void refuse_pickle(const std::filesystem::path& file) {
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  if (file.filename().string().starts_with("consolidated.") && file.extension() == ".pth")
    refuse_original_layout(folder);
  throw Error{Fault::data,
              {file.string()},
              "is a Python pickle, which can run programs when it is opened; only safetensors and GGUF are read",
              fmt::format("convert it once: python -c \"from transformers import AutoModelForCausalLM as M; "
                          "M.from_pretrained('{0}').save_pretrained('{0}-safetensors')\"",
                          folder.string())};
}

}  // namespace tune
