#pragma once
#include <filesystem>

#include "recipes/schema/recipe.h"
#include "tools/export/export.h"

namespace tune {

/// How an export is told from other people's files, so that only an export is ever replaced: a folder holds
/// tune_export.json with format and source, a GGUF has the key "tune.export", a Modelfile its first line.
inline constexpr const char* kExportMarkFile = "tune_export.json";
inline constexpr const char* kExportMarkKey = "tune.export";

/// Into a folder that is being filled.
void mark_export(const std::filesystem::path& folder, const ExportOptions& options, const ExportSource& source);

/// True for a folder, a GGUF file or a Modelfile with the mark.
bool is_export(const std::filesystem::path& path);

}  // namespace tune
