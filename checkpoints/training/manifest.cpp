#include "checkpoints/training/manifest.h"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoints/files/hash.h"
#include "checkpoints/files/json.h"
#include "checkpoints/files/mapped_file.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr const char* kRemedy = "go on from an older checkpoint, or start again with --resume never";

[[noreturn]] void refuse(const fs::path& file, const std::string& what) {
  throw Error{Fault::data, {file.string()}, what, kRemedy};
}

/// Everything but the checksum of the manifest itself; keys in alphabetical order, so that the text is canonical.
json body(const Manifest& manifest) {
  json files = json::array();
  for (const ManifestFile& file : manifest.files)
    files.push_back({{"name", file.name}, {"size", file.size_bytes}, {"xxh3_128", file.xxh3_128}});
  return {{"version", kVersion}, {"step", manifest.step}, {"files", files}, {"facts", manifest.facts}};
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
}

Manifest from_json(const json& json, const fs::path& path) {
  if (json.at("version") != kVersion)
    refuse(path, fmt::format("has version {}; this program reads version {}", json.at("version").dump(), kVersion));
  Manifest manifest;
  manifest.step = json.at("step").get<std::int64_t>();
  manifest.facts = json.at("facts").get<std::map<std::string, std::string>>();
  for (const auto& file : json.at("files")) {
    manifest.files.push_back({.name = file.at("name").get<std::string>(),
                              .size_bytes = file.at("size").get<std::uint64_t>(),
                              .xxh3_128 = file.at("xxh3_128").get<std::string>()});
    if (!is_plain_name(manifest.files.back().name)) refuse(path, "names a file outside the folder");
  }
  return manifest;
}

}  // namespace

ManifestFile describe_file(const fs::path& path) {
  return {.name = path.filename().string(), .size_bytes = fs::file_size(path), .xxh3_128 = xxh3_128_of_file(path)};
}

Manifest make_manifest(const fs::path& folder, std::int64_t step, const std::map<std::string, std::string>& facts,
                       const std::vector<ManifestFile>& known) {
  Manifest manifest{.step = step, .files = known, .facts = facts};
  for (const auto& entry : fs::directory_iterator(folder)) {
    TUNE_CHECK(entry.is_regular_file(), "{} is not a file", entry.path().string());
    if (std::none_of(known.begin(), known.end(),
                     [&](const ManifestFile& file) { return file.name == entry.path().filename(); }))
      manifest.files.push_back(describe_file(entry.path()));
  }
  std::sort(manifest.files.begin(), manifest.files.end(),
            [](const ManifestFile& a, const ManifestFile& b) { return a.name < b.name; });
  return manifest;
}

std::string write_manifest(const Manifest& manifest) {
  json json = body(manifest);
  json["manifest_xxh3_128"] = xxh3_128(json.dump());
  return json.dump(2) + "\n";
}

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestFile;
  json json = read_json_object(path);
  try {
    const std::string checksum = json.at("manifest_xxh3_128").get<std::string>();
    json.erase("manifest_xxh3_128");
    if (checksum != xxh3_128(json.dump())) refuse(path, "is damaged: its own checksum doesn't match");
    return from_json(json, path);
  } catch (const json::exception&) {
    refuse(path, "is damaged: a key is missing or of another type");
  }
}

void check_files(const fs::path& folder, const Manifest& manifest) {
  for (const ManifestFile& expected : manifest.files) {
    const fs::path path = folder / expected.name;
    std::error_code unreadable;
    const std::uintmax_t size = fs::file_size(path, unreadable);
    if (unreadable == std::errc::no_such_file_or_directory) refuse(path, "is missing");
    if (unreadable) refuse(path, fmt::format("can't be read: {}", unreadable.message()));
    if (size != expected.size_bytes)
      refuse(path, fmt::format("is damaged: {} bytes, the manifest says {}", size, expected.size_bytes));
    if (xxh3_128_of_file(path) != expected.xxh3_128)
      refuse(path, "is damaged: its checksum doesn't match the manifest");
  }
}

}  // namespace tune
