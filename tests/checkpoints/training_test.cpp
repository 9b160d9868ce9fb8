#include <random>
#include <thread>

#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/peft/adapter_folder.h"
#include "checkpoints/training/manifest.h"
#include "checkpoints/training/restore.h"
#include "checkpoints/training/retention.h"
#include "checkpoints/training/save.h"
#include "checkpoints/training/slice_name.h"
#include "tests/checkpoints/files_helpers.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

const AdapterConfig kAdapter{.base_model_name_or_path = "base", .r = 2, .target_modules = {"q_proj"}};

/// A state whose numbers follow from the step.
struct Numbers {
  explicit Numbers(std::int64_t step)
      : weight(8, static_cast<float>(step)), moment(8, static_cast<float>(step) + 0.5f) {
    state.step = step;
    state.weights = {{"w.lora_A.weight", "F32", {2, 4}, bytes_of(weight)}};
    state.optimizer = {{"w.lora_A.weight.exp_avg", "F32", {2, 4}, bytes_of(moment)}};
    state.facts = {{"tokens", std::to_string(step * 100)}};
  }
  std::vector<float> weight, moment;
  TrainingState state;
};

void save(const TemporaryFolder& folder, std::int64_t step) {
  save_checkpoint(folder.path(), Numbers(step).state, kAdapter);
}

void flip_bit(const std::filesystem::path& path, std::size_t bit) {
  std::string bytes = get(path);
  bytes.at(bit / 8) = static_cast<char>(bytes.at(bit / 8) ^ (1 << bit % 8));
  put(path, bytes);
}

std::vector<std::int64_t> steps(const TemporaryFolder& folder) {
  std::vector<std::int64_t> steps;
  for (const auto& [step, path] : list_checkpoints(folder.path())) steps.push_back(step);
  return steps;
}

std::vector<std::byte> read(const LoadedCheckpoint& checkpoint, std::string_view name, std::size_t bytes) {
  std::vector<std::byte> values(bytes);
  checkpoint.read(name, values);
  return values;
}

TEST(Checkpoint, ComesBackAsItWasSaved) {
  const TemporaryFolder folder;
  const Numbers numbers(5);
  const auto path = save_checkpoint(folder.path(), numbers.state, kAdapter);
  EXPECT_EQ(path.filename(), "checkpoint-5");
  std::vector<std::string> warnings;
  const auto checkpoint = find_newest_checkpoint(folder.path(), &warnings);
  ASSERT_TRUE(checkpoint);
  EXPECT_THAT(warnings, IsEmpty());
  EXPECT_EQ(checkpoint->step(), 5);
  EXPECT_EQ(checkpoint->facts().at("tokens"), "500");
  EXPECT_EQ(text_of(read(*checkpoint, "w.lora_A.weight", 32)), text_of(bytes_of(numbers.weight)));
  EXPECT_EQ(text_of(read(*checkpoint, "w.lora_A.weight.exp_avg", 32)), text_of(bytes_of(numbers.moment)));
  EXPECT_EQ(checkpoint->bytes("other"), 0u);
  EXPECT_THAT(error_text(Fault::data, [&] { read(*checkpoint, "w.lora_A.weight", 28); }),
              HasSubstr("has 32 bytes of w.lora_A.weight; 28 are expected"));
  EXPECT_EQ(AdapterFolder(path).config().r, 2);
}

TEST(Checkpoint, OfAFullModelIsAModelFile) {
  const TemporaryFolder folder;
  const auto path = save_checkpoint(folder.path(), Numbers(1).state, std::nullopt);
  EXPECT_TRUE(std::filesystem::exists(path / "model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(path / kAdapterConfigFile));
  EXPECT_EQ(load_checkpoint(path).bytes("w.lora_A.weight"), 32u);
}

TEST(Checkpoint, OfSeveralProcessesIsReadInAnyOtherParts) {
  const TemporaryFolder folder;
  const std::vector<float> values = {0, 1, 2, 3, 4, 5, 6, 7}, moments = {10, 11, 12, 13, 14, 15, 16, 17};
  const auto part = [&](std::int64_t first, std::int64_t count) {
    const auto slice = [&](const std::vector<float>& all) {
      return std::as_bytes(std::span(all).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
    };
    const std::string name = slice_name("w", first);
    TrainingState state{.step = 7, .facts = {{"tokens", "70"}}};
    state.weights = {{name, "F32", {count}, slice(values)}};
    state.optimizer = {{name + ".exp_avg", "F32", {count}, slice(moments)}};
    return state;
  };
  AtomicFolder made(checkpoint_path(folder.path(), 7));
  std::thread other([&] { save_part(made.path(), part(5, 3), 1, 2); });
  save_part(made.path(), part(0, 5), 0, 2);
  finish_parts(made, part(0, 5), 2);
  other.join();

  const LoadedCheckpoint checkpoint = load_checkpoint(folder / "checkpoint-7");
  EXPECT_EQ(checkpoint.facts().at("tokens"), "70");
  EXPECT_EQ(checkpoint.bytes("w"), 32u);
  EXPECT_EQ(text_of(read(checkpoint, "w", 32)), text_of(bytes_of(values)));
  EXPECT_EQ(text_of(read(checkpoint, "w@3.exp_avg", 16)), text_of(bytes_of(std::vector<float>{13, 14, 15, 16})));
  EXPECT_THAT(error_text(Fault::data, [&] { read(checkpoint, "w@6", 16); }), HasSubstr("has 8 bytes of w@6"));
  EXPECT_THAT(error_text(Fault::data, [&] { read(checkpoint, "w", 40); }), HasSubstr("has 32 bytes of w; 40"));
  EXPECT_FALSE(std::filesystem::exists(folder / "checkpoint-7" / "part-00001-of-00002.safetensors.sum"));
}

TEST(Checkpoint, NoneIsNoFault) {
  const TemporaryFolder folder;
  std::vector<std::string> warnings;
  EXPECT_FALSE(find_newest_checkpoint(folder / "none", &warnings));
}

TEST(Checkpoint, DamagedNewestIsReportedAndTheOneBeforeUsed) {
  const TemporaryFolder folder;
  save(folder, 5);
  save(folder, 10);
  flip_bit(folder / "checkpoint-10/optimizer.safetensors", 8 * 100);
  std::vector<std::string> warnings;
  EXPECT_EQ(find_newest_checkpoint(folder.path(), &warnings)->step(), 5);
  ASSERT_THAT(warnings, SizeIs(1));
  EXPECT_THAT(warnings[0], HasSubstr("checkpoint-10 is passed over: "));
  EXPECT_THAT(warnings[0], HasSubstr("optimizer.safetensors: is damaged: its checksum doesn't match"));
}

TEST(Checkpoint, UnreadableNewestGivesWayAsADamagedOneDoes) {
  const TemporaryFolder folder;
  for (const int step : {5, 10, 15}) save(folder, step);
  for (const char* name : {"checkpoint-10/state.json", "checkpoint-15"}) {  // links to themselves
    std::filesystem::remove_all(folder / name);
    std::filesystem::create_symlink(folder / name, folder / name);
  }
  std::vector<std::string> warnings;
  EXPECT_EQ(find_newest_checkpoint(folder.path(), &warnings)->step(), 5);
  ASSERT_THAT(warnings, SizeIs(2));
  EXPECT_THAT(warnings[0], HasSubstr("checkpoint-15 is passed over: "));
  EXPECT_THAT(warnings[1], HasSubstr("state.json: can't be read: Too many levels of symbolic links"));
}

TEST(Checkpoint, MissingAndShortFilesAreNamed) {
  const TemporaryFolder folder;
  save(folder, 1);
  std::filesystem::resize_file(folder / "checkpoint-1/state.json", 3);
  EXPECT_THAT(error_text(Fault::data, [&] { load_checkpoint(folder / "checkpoint-1"); }),
              HasSubstr("state.json: is damaged: 3 bytes, the manifest says"));
  std::filesystem::remove(folder / "checkpoint-1/state.json");
  EXPECT_THAT(error_text(Fault::data, [&] { load_checkpoint(folder / "checkpoint-1"); }),
              HasSubstr("state.json: is missing"));
}

TEST(Checkpoint, NeverBeginsAnewBehindTheUsersBack) {
  const TemporaryFolder folder;
  save(folder, 1);
  std::filesystem::remove(folder / "checkpoint-1/manifest.json");
  std::vector<std::string> warnings;
  EXPECT_THAT(error_text(Fault::data, [&] { find_newest_checkpoint(folder.path(), &warnings); }),
              HasSubstr("none of its 1 checkpoints is whole"));
}

TEST(Checkpoint, EverySingleBitFlipIsFound) {
  const TemporaryFolder folder;
  save(folder, 3);
  std::mt19937 random(7);
  const auto checkpoint = folder / "checkpoint-3";
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint)) files.push_back(entry.path());
  for (int round = 0; round < 1000; ++round) {
    const auto& file = files[random() % files.size()];
    const std::size_t bit = random() % (8 * std::filesystem::file_size(file));
    flip_bit(file, bit);
    EXPECT_THROW(load_checkpoint(checkpoint), Error) << file << " bit " << bit;
    flip_bit(file, bit);
  }
  EXPECT_EQ(load_checkpoint(checkpoint).step(), 3);
}

TEST(Checkpoint, FolderWithAnotherStepsNameIsRefused) {
  const TemporaryFolder folder;
  save(folder, 3);
  std::filesystem::rename(folder / "checkpoint-3", folder / "checkpoint-9");
  std::vector<std::string> warnings;
  EXPECT_THAT(error_text(Fault::data, [&] { find_newest_checkpoint(folder.path(), &warnings); }),
              HasSubstr("holds the state of step 3"));
}

TEST(Checkpoint, SavingAgainReplacesAndForgetsLaterSteps) {
  const TemporaryFolder folder;
  for (const int step : {5, 10, 15}) save(folder, step);
  put(folder / "checkpoint-10/state.json", "damaged");
  save(folder, 10);
  EXPECT_THAT(steps(folder), ElementsAre(5, 10));
  EXPECT_EQ(load_checkpoint(folder / "checkpoint-10").step(), 10);
}

TEST(Checkpoint, ManifestCannotPointOutOfTheFolder) {
  const TemporaryFolder folder;
  put(folder / "manifest.json", write_manifest({.step = 1, .files = {{"../x", 1, "0"}}, .facts = {}}));
  EXPECT_THAT(error_text(Fault::data, [&] { load_checkpoint(folder.path()); }), HasSubstr("outside the folder"));
}

TEST(Retention, KeepsTheBestAmongAsManyAsBefore) {
  const TemporaryFolder folder;
  for (const int step : {5, 10, 20, 30})
    std::filesystem::create_directory(folder / ("checkpoint-" + std::to_string(step)));
  retain_checkpoints(folder.path(), 3, 5);
  EXPECT_THAT(steps(folder), ElementsAre(5, 20, 30));
  retain_checkpoints(folder.path(), 1, 5);
  EXPECT_THAT(steps(folder), ElementsAre(5, 30));
  retain_checkpoints(folder.path(), 1, 30);
  EXPECT_THAT(steps(folder), ElementsAre(30));
}

TEST(Retention, KeepsTheNewest) {
  const TemporaryFolder folder;
  for (const int step : {5, 10, 100, 20})
    std::filesystem::create_directory(folder / ("checkpoint-" + std::to_string(step)));
  std::filesystem::create_directory(folder / "checkpoint-best");
  retain_checkpoints(folder.path(), 0);
  EXPECT_THAT(steps(folder), ElementsAre(5, 10, 20, 100));
  retain_checkpoints(folder.path(), 2);
  EXPECT_THAT(folder.names(), UnorderedElementsAre("checkpoint-20", "checkpoint-100", "checkpoint-best"));
  remove_checkpoints(folder.path());
  EXPECT_THAT(folder.names(), ElementsAre("checkpoint-best"));
}

}  // namespace
}  // namespace tune
