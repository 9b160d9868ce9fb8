#include "tools/export/adapter.h"

#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/files/file_system.h"
#include "checkpoints/peft/adapter_folder.h"
#include "tools/export/merge.h"

namespace tune {

namespace fs = std::filesystem;

void export_adapter(const BaseModel& base, const fs::path& adapter, const fs::path& output) {
  const AdapterFolder opened(adapter);
  const MergedWeights checked(*base.weights, opened, adapter.string());
  AtomicFolder folder(output);
  for (const char* name : {kAdapterConfigFile, kAdapterWeightsFile})
    duplicate_file(adapter / name, folder.path() / name);
  folder.commit();
}

}  // namespace tune
