#include "tools/export/adapter.h"

#include "checkpoints/files/file_system.h"
#include "checkpoints/peft/adapter_folder.h"
#include "tools/export/merge.h"

namespace tune {

namespace fs = std::filesystem;

void export_adapter(const BaseModel& base, const fs::path& adapter, const fs::path& folder) {
  const AdapterFolder opened(adapter);
  const MergedWeights checked(*base.weights, opened, adapter.string());
  for (const TensorInfo& factor : opened.tensors()) read_factor(opened, factor.name);
  for (const char* name : {kAdapterConfigFile, kAdapterWeightsFile}) duplicate_file(adapter / name, folder / name);
}

}  // namespace tune
