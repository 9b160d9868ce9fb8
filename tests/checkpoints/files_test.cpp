#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <stdexcept>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/files/file_system.h"
#include "checkpoints/files/hash.h"
#include "checkpoints/files/json.h"
#include "checkpoints/files/mapped_file.h"
#include "checkpoints/files/output_lock.h"
#include "tests/checkpoints/files_helpers.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

TEST(MappedFile, ShowsBytesAndSurvivesMoves) {
  const TemporaryFolder folder;
  put(folder / "a", "hello");
  MappedFile first(folder / "a");
  const auto bytes = first.bytes();
  MappedFile second(std::move(first));
  put(folder / "empty", "");
  MappedFile third(folder / "empty");
  EXPECT_TRUE(third.bytes().empty());
  third = std::move(second);
  EXPECT_EQ(third.bytes().data(), bytes.data());
  EXPECT_EQ(text_of(third.bytes()), "hello");
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_text(Fault::data, [&] { MappedFile{folder / "none"}; }),
              HasSubstr("none: can't be opened: No such"));
  EXPECT_THAT(error_text(Fault::data, [&] { MappedFile{folder.path()}; }), HasSubstr("is not a regular file"));
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_text(Fault::data, [&] { MappedFile{folder / "pipe"}; }), HasSubstr("is not a regular file"));
}

TEST(MappedFile, NoticesThatTheFileBecameShorter) {
  const TemporaryFolder folder;
  put(folder / "a", std::string(10'000, 'x'));
  const MappedFile file(folder / "a");
  file.check_unchanged();
  std::filesystem::resize_file(folder / "a", 10);
  EXPECT_THAT(error_text(Fault::data, [&] { file.check_unchanged(); }), HasSubstr("became shorter while it was read"));
}

TEST(OutputFile, WritesAndAppends) {
  const TemporaryFolder folder;
  OutputFile file(folder / "a");
  file.write("one ");
  file.write("two");
  EXPECT_EQ(file.bytes_written(), 7u);
  file.close();
  OutputFile more(folder / "a", WriteMode::append);
  more.write(" three");
  more.close();
  EXPECT_EQ(get(folder / "a"), "one two three");
}

TEST(OutputFile, SaysThatTheDiskIsFull) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full";
  OutputFile file("/dev/full");
  EXPECT_THAT(error_text(Fault::running, [&] { file.write("x"); }),
              HasSubstr("/dev/full: can't be written after 0 bytes: No space left on device; free disk space"));
}

TEST(OutputFile, NamesTheFolderThatIsMissing) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_text(Fault::running, [&] { OutputFile{folder / "none/a"}; }),
              HasSubstr("none/a: can't be created: No such file"));
}

/// Exit code of `action` in a process of its own whose files can't grow beyond `limit` bytes.
int exit_code_with_file_limit(rlim_t limit, const std::function<void()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limits{limit, limit};
    ::setrlimit(RLIMIT_FSIZE, &limits);
    int code = 0;
    try {
      action();
    } catch (const Error& error) {
      code = error.exit_code();
    } catch (...) {
      code = 99;
    }
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(OutputFile, FinishesAShortWriteAndThenReportsTheLimit) {
  const TemporaryFolder folder;
  const std::string text(5000, 'x');
  EXPECT_EQ(exit_code_with_file_limit(4096, [&] { OutputFile(folder / "a").write(text); }), 1);
  EXPECT_EQ(std::filesystem::file_size(folder / "a"), 4096u);
  EXPECT_EQ(exit_code_with_file_limit(5000, [&] { OutputFile(folder / "b").write(text); }), 0);
}

TEST(AtomicFile, AppearsOnCommitOnly) {
  const TemporaryFolder folder;
  put(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.file().write("half");
  }
  EXPECT_EQ(get(folder / "a"), "old");
  write_atomically(folder / "a", "new");
  EXPECT_EQ(get(folder / "a"), "new");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFile, KeepsTheOldFileWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  put(folder / "a", "old");
  EXPECT_EQ(exit_code_with_file_limit(4, [&] { write_atomically(folder / "a", "longer than that"); }), 1);
  EXPECT_EQ(get(folder / "a"), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFolder, LeavesNothingBehindOnException) {
  const TemporaryFolder folder;
  try {
    const AtomicFolder unfinished(folder / "out");
    put(unfinished.path() / "a", "half");
    throw std::runtime_error("disk full");
  } catch (const std::runtime_error&) {
  }
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(AtomicFolder, IsHiddenUntilCommitted) {
  const TemporaryFolder folder;
  AtomicFolder unfinished(folder / "deep/checkpoint-5/");
  EXPECT_EQ(unfinished.path().filename(), ".checkpoint-5.tmp-" + std::to_string(::getpid()));
  put(unfinished.path() / "a", "whole");
  EXPECT_FALSE(std::filesystem::exists(folder / "deep/checkpoint-5"));
  unfinished.commit();
  EXPECT_EQ(get(folder / "deep/checkpoint-5/a"), "whole");
}

TEST(AtomicFolder, ReplacesAnOlderFolder) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "out");
  put(folder / "out/old", "old");
  AtomicFolder next(folder / "out");
  put(next.path() / "new", "new");
  next.commit();
  EXPECT_THAT(folder.names(), ElementsAre("out"));
  EXPECT_FALSE(std::filesystem::exists(folder / "out/old"));
  EXPECT_EQ(get(folder / "out/new"), "new");
}

TEST(AtomicFolder, LeftoversOfDeadProcessesGo) {
  const TemporaryFolder folder;
  const pid_t dead = ::fork();
  if (dead == 0) ::_exit(0);
  ::waitpid(dead, nullptr, 0);
  const std::string gone = std::to_string(dead), alive = ".checkpoint-3.tmp-" + std::to_string(::getppid());
  for (const std::string& name : {".checkpoint-2.tmp-" + gone, ".out.tmp-" + gone, alive, ".checkpoint-1.trash-" + gone,
                                  std::string(".mine"), std::string("checkpoint-1.tmp-9")})
    std::filesystem::create_directory(folder / name);
  remove_leftovers_of(folder / "out/");
  EXPECT_FALSE(std::filesystem::exists(folder / (".out.tmp-" + gone)));
  EXPECT_TRUE(std::filesystem::exists(folder / (".checkpoint-2.tmp-" + gone)));
  remove_leftovers(folder.path());
  EXPECT_THAT(folder.names(), UnorderedElementsAre(alive, ".mine", "checkpoint-1.tmp-9"));
}

TEST(AtomicFolder, KilledWhileReplacingLosesNothing) {  // where the file system can't swap two names
  const TemporaryFolder folder;
  const std::string old = ".out.old-" + std::to_string(::getpid());  // in a container all programs may have one number
  std::filesystem::create_directory(folder / old);
  put(folder / (old + "/a"), "old");
  remove_leftovers(folder.path());
  EXPECT_EQ(get(folder / "out/a"), "old");
  std::filesystem::create_directory(folder / old);
  remove_leftovers(folder.path());
  EXPECT_THAT(folder.names(), ElementsAre("out"));
  EXPECT_EQ(get(folder / "out/a"), "old");
}

TEST(Hash, IsXxh3) {
  // xxHash's own sanity values: seed 0, no input; and `printf abc | xxh128sum`
  EXPECT_EQ(xxh3_128(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(xxh3_128("abc"), "06b05ab6733a618578af5f94892f3950");
  const TemporaryFolder folder;
  put(folder / "a", "abc");
  EXPECT_EQ(xxh3_128_of_file(folder / "a"), xxh3_128("abc"));
}

TEST(OutputLock, SecondProcessIsToldWhoHasIt) {
  const TemporaryFolder folder;
  std::optional<OutputLock> lock(std::in_place, folder / "run");
  const std::string text = error_text(Fault::recipe, [&] { OutputLock{folder / "run"}; });
  EXPECT_THAT(text, HasSubstr("process " + std::to_string(::getpid()) + " on "));
  EXPECT_THAT(text, HasSubstr("writes into this folder; wait until it ends"));
  lock.reset();
  OutputLock{folder / "run"};
}

TEST(Json, NamesLineAndColumn) {
  EXPECT_THAT(error_text(Fault::data, [] { parse_json_object("{\"a\": 1,\n \"b\": oops}", "x.json"); }),
              HasSubstr("x.json:2:7: is not valid JSON here"));
  EXPECT_THAT(error_text(Fault::data, [] { parse_json_object("{\"a\": 1, \"a\": 2}", "x.json"); }),
              HasSubstr("key \"a\" occurs twice"));
  EXPECT_THAT(error_text(Fault::data, [] { parse_json_object("[1]", "x.json"); }), HasSubstr("holds no JSON object"));
  const std::string deep = "{\"a\": " + std::string(1'000'000, '[');
  EXPECT_THAT(error_text(Fault::data, [&] { parse_json_object(deep, "x.json"); }), HasSubstr("nested deeper than 64"));
}

}  // namespace
}  // namespace tune
