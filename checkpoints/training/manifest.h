#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace tune {

inline constexpr const char* kManifestFile = "manifest.json";

struct ManifestFile {
  std::string name;
  std::uint64_t size_bytes = 0;
  std::string xxh3_128;
};

/// What a checkpoint folder must hold, byte for byte; its last file. A checksum of its own protects it, too.
struct Manifest {
  std::int64_t step = 0;
  std::vector<ManifestFile> files;           // every file but the manifest, by name
  std::map<std::string, std::string> facts;  // TrainingState::facts
};

/// Sizes and checksums of the files that are in `folder` now; of those in `known` they are taken from there.
Manifest make_manifest(const std::filesystem::path& folder, std::int64_t step,
                       const std::map<std::string, std::string>& facts, const std::vector<ManifestFile>& known = {});
ManifestFile describe_file(const std::filesystem::path& path);

std::string write_manifest(const Manifest& manifest);

/// Error{Fault::data} when it is missing, damaged, or of a version that we don't know.
Manifest read_manifest(const std::filesystem::path& folder);

/// Error{Fault::data} naming the first file that is missing, has another size or another checksum.
void check_files(const std::filesystem::path& folder, const Manifest& manifest);

}  // namespace tune
