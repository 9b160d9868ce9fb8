#include "checkpoints/base_model.h"

#include <fmt/format.h>

#include "checkpoints/gguf/model.h"
#include "checkpoints/huggingface/config.h"
#include "checkpoints/huggingface/folder.h"
#include "recipes/schema/error.h"

namespace tune {

BaseModel open_base_model(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path))
    throw Error{Fault::data, {path.string()}, "there is no such model", "set model.base_model to a Hugging Face folder or a .gguf file"};
  BaseModel base;
  base.path = path;
  base.is_gguf = std::filesystem::is_regular_file(path);
  if (base.is_gguf) {
    if (path.extension() != ".gguf")
      throw Error{Fault::data, {path.string()}, "is a file, but not a .gguf", "give the folder that holds config.json and *.safetensors, or a .gguf file"};
    base.weights = open_gguf_weights(path);
    base.config = read_gguf_config(GgufFile(path));
    return base;
  }
  base.config = read_model_config(path);
  base.weights = open_huggingface_weights(path);
  return base;
}

}  // namespace tune
