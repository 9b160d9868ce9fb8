#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const fs::path kSource = TUNE_SOURCE_DIR;

using Rooms = std::vector<std::string>;  // from left to right: each may include itself and what stands to its left

std::string text_of(const fs::path& path) {
  std::ifstream stream(path);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

// The one line of the drawing: "recipes ← checkpoints ← …".
Rooms drawn_rooms(const std::string& document) {
  std::istringstream lines(document);
  for (std::string line; std::getline(lines, line);) {
    if (line.find("←") == std::string::npos) continue;
    Rooms rooms;
    std::istringstream words(line);
    for (std::string word; words >> word;)
      if (word != "←") rooms.push_back(word);
    return rooms;
  }
  return {};
}

std::optional<std::size_t> place_of(const Rooms& rooms, const std::string& room) {
  const auto found = std::find(rooms.begin(), rooms.end(), room);
  if (found == rooms.end()) return std::nullopt;
  return static_cast<std::size_t>(found - rooms.begin());
}

std::string room_of(const std::string& path) { return path.substr(0, path.find('/')); }

bool starts_with_one_of(const std::string& path, const std::vector<std::string>& beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(), [&](const std::string& b) { return path.starts_with(b); });
}

// What a line may not say, "" when all is well.
std::string fault_of_include(const Rooms& rooms, const std::string& file, const std::string& line) {
  static const std::regex kOurs(R"(^\s*#\s*include\s+"([^"]+)\")"), kTorch(R"(^\s*#\s*include\s+<(ATen|c10|torch)/)");
  std::smatch match;
  if (std::regex_search(line, match, kTorch)) {
    const bool allowed = (file.starts_with("train/") && !file.starts_with("train/plan/")) || file.starts_with("tools/");
    return allowed ? "" : "LibTorch begins at train, and train/plan does without it";
  }
  if (!std::regex_search(line, match, kOurs)) return "";
  const std::string target = match[1];
  const auto from = place_of(rooms, room_of(file)), to = place_of(rooms, room_of(target));
  if (!to) return fmt::format("\"{}\" does not begin with a room's name", target);
  if (*to > *from)
    return fmt::format("{} may not include {} (move the type to {}/?)", room_of(file), room_of(target), room_of(file));
  if (file.starts_with("train/plan/") && target.starts_with("train/") && !target.starts_with("train/plan/"))
    return "train/plan may not include the rest of train, which needs LibTorch";
  return "";
}

// Everyone else takes his own section of the recipe.
std::string fault_of_recipe(const std::string& file, const std::string& line) {
  static const std::regex kWhole(R"(\bRecipe\b\s*[&*]?\s*\w+\s*[;,){=(])");
  static const std::vector<std::string> kMaySee = {"recipes/schema/", "train/plan/",       "train/trainer.",
                                                   "train/inputs.",   "train/run_record.", "tools/"};
  if (line.find("//") < line.find("Recipe")) return "";
  if (!std::regex_search(line, kWhole) || starts_with_one_of(file, kMaySee)) return "";
  return "the whole Recipe is for reader, plan, trainer and verbs; take the section that is needed";
}

// stderr may be closed or full: only tell() bears that.
std::string fault_of_stderr(const std::string& line) {
  static const std::regex kStderr(R"(std::cerr|[(,]\s*stderr\b)");
  return std::regex_search(line, kStderr) ? "writes to stderr by itself; call tell()" : "";
}

std::vector<std::string> source_files(const Rooms& rooms) {
  std::vector<std::string> files;
  for (const std::string& room : rooms) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(kSource / room)) {
      const std::string extension = entry.path().extension();
      if (extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh")
        files.push_back(entry.path().lexically_relative(kSource).string());
    }
  }
  return files;
}

const Rooms kRooms = {"recipes", "checkpoints", "data", "train", "tools"};

TEST(Architecture, DrawingNamesTheRoomsInOrder) {
  EXPECT_EQ(drawn_rooms(text_of(kSource / "docs/architecture.md")), kRooms);
}

TEST(Architecture, RoomsIncludeOnlyWhatStandsToTheirLeft) {
  const Rooms rooms = drawn_rooms(text_of(kSource / "docs/architecture.md"));
  const std::vector<std::string> files = source_files(rooms);
  ASSERT_GT(files.size(), 50u);
  for (const std::string& file : files) {
    std::istringstream lines(text_of(kSource / file));
    std::int64_t number = 0;
    for (std::string line; std::getline(lines, line);) {
      ++number;
      for (const std::string& fault :
           {fault_of_include(rooms, file, line), fault_of_recipe(file, line), fault_of_stderr(line)})
        if (!fault.empty()) ADD_FAILURE() << file << ":" << number << ": " << fault;
    }
  }
}

TEST(Architecture, FaultsAreFound) {
  const auto include = [](const char* file, const char* line) { return fault_of_include(kRooms, file, line); };
  EXPECT_EQ(include("data/packing.h", R"(#include "train/step.h")"),
            "data may not include train (move the type to data/?)");
  EXPECT_EQ(include("data/packing.h", R"(#include "step.h")"), "\"step.h\" does not begin with a room's name");
  EXPECT_EQ(include("train/step.h", R"(#include "data/batch.h")"), "");
  EXPECT_NE(include("data/packing.h", "#include <ATen/ATen.h>"), "");
  EXPECT_NE(include("train/plan/plan.h", "#include <ATen/ATen.h>"), "");
  EXPECT_NE(include("train/plan/plan.h", R"(#include "train/model/decoder.h")"), "");
  EXPECT_NE(fault_of_recipe("data/loader.h", "  Loader(const Recipe& recipe);"), "");
  EXPECT_EQ(fault_of_recipe("train/trainer.cpp", "  Run(const Recipe& recipe);"), "");
  EXPECT_EQ(fault_of_recipe("data/loader.h", "  Loader(const DataOptions& data);  // never a Recipe x;"), "");
  EXPECT_NE(fault_of_stderr(R"(fmt::print(stderr, "x");)"), "");
  EXPECT_EQ(fault_of_stderr("  tell(text);  // on stderr"), "");
}

}  // namespace
