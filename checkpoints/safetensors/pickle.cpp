#include "checkpoints/safetensors/pickle.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

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
  const std::string folder = file.has_parent_path() ? file.parent_path().string() : ".";
  const bool meta_layout = file.filename().string().starts_with("consolidated.");
  const std::string remedy =
      meta_layout
          ? "this is Meta's own layout: use the same model in Hugging Face layout (its folder has a config.json), "
            "or convert it with transformers' convert_llama_weights_to_hf.py"
          : fmt::format(
                "convert it once: python -c \"from transformers import AutoModelForCausalLM as M; "
                "M.from_pretrained('{0}').save_pretrained('{0}-safetensors')\"",
                folder);
  throw Error{Fault::data,
              {file.string()},
              "is a Python pickle, which can run programs when it is opened; only safetensors and GGUF are read",
              remedy};
}

}  // namespace tune
