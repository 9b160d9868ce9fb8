#include "checkpoints/safetensors/named_bytes.h"

#include <map>
#include <string_view>

#include "checkpoints/safetensors/writer.h"
#include "recipes/schema/error.h"

namespace tune {

void write_safetensors(const std::filesystem::path& path, std::span<const NamedBytes> tensors) {
  std::vector<TensorInfo> infos;
  std::map<std::string_view, std::span<const std::byte>> bytes;
  for (const NamedBytes& tensor : tensors) {
    infos.push_back({tensor.name, tensor.dtype, tensor.shape});
    TUNE_CHECK(bytes.emplace(tensor.name, tensor.bytes).second, "two tensors {}", tensor.name);
  }
  SafetensorsWriter writer(path, std::move(infos));
  for (const TensorInfo& info : writer.tensors()) writer.write_tensor(info.name, bytes.at(info.name));
  writer.close();
}

}  // namespace tune
