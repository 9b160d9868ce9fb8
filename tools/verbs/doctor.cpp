#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <sched.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "checkpoints/files/file_system.h"
#include "recipes/schema/error.h"
#include "recipes/schema/lookup.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/doctor_ranks.h"
#include "tools/verbs/graphics_cards.h"
#include "tools/verbs/installed_recipes.h"
#include "tools/verbs/launch_argument.h"
#include "tools/verbs/verbs.h"
#include "train/device.h"
#include "train/plan/process.h"

namespace tune {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

enum class Verdict { good, advice, bad };

struct Finding {
  Verdict verdict;
  std::string subject, found;
  std::string remedy = "";
};

// "key: value" of files such as /proc/meminfo; "" where there is no such file or key.
std::string value_in(const char* file, const std::string& key) {
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    const std::size_t colon = line.find(':');
    if (colon != std::string::npos && line.starts_with(key)) return line.substr(std::min(colon + 2, line.size()));
  }
  return "";
}

bool has_word(const std::string& text, const std::string& word) {
  std::istringstream words(text);
  for (std::string each; words >> each;)
    if (each == word) return true;
  return false;
}

Finding program() {
  return {Verdict::good, "program",
          fmt::format("tune {}, LibTorch {}, vector code {}", TUNE_VERSION, TORCH_VERSION, at::get_cpu_capability())};
}

Finding processor() {
  const std::string flags = value_in("/proc/cpuinfo", "flags");
  std::string extensions;
  for (const char* flag : {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    if (has_word(flags, flag)) extensions += std::string(extensions.empty() ? "" : ", ") + flag;
  Finding finding{Verdict::good, "processor", fmt::format("{} ({})", device_name("cpu"), extensions)};
  if (flags.empty()) return finding;
  if (!has_word(flags, "avx2")) {
    finding.verdict = Verdict::advice;
    finding.remedy = "without avx2 training is many times slower; use a newer machine";
  } else if (!has_word(flags, "avx512_bf16")) {
    finding.verdict = Verdict::advice;
    finding.remedy = "bf16 products are slow without avx512_bf16; train.precision: fp32 may be faster here";
  }
  return finding;
}

Finding threads() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof(allowed), &allowed);
  const int cores = CPU_COUNT(&allowed), used = at::get_num_threads();
  Finding finding{Verdict::good, "threads", fmt::format("{} used, {} allowed", used, cores)};
  if (used > cores || 2 * used < cores) {
    finding.verdict = Verdict::advice;
    finding.remedy = fmt::format("set OMP_NUM_THREADS={}, or unset it", cores);
  }
  return finding;
}

Finding memory() {
  constexpr std::int64_t kEnough = std::int64_t{2} << 30;  // the quickstart's need
  const auto [total, available] = host_memory();
  Finding finding{Verdict::good, "memory",
                  fmt::format("{:.1f} GiB, {:.1f} GiB of it free", static_cast<double>(total) / kGiB,
                              static_cast<double>(available) / kGiB)};
  if (available < kEnough) {
    finding.verdict = Verdict::advice;
    finding.remedy = "even small models need about 2 GiB; end other programs, and ask `tune plan` first";
  }
  return finding;
}

Finding disk() {
  constexpr std::uint64_t kEnough = std::uint64_t{5} << 30;
  const std::uint64_t bytes = free_disk_bytes(std::filesystem::current_path());
  Finding finding{Verdict::good, "disk", fmt::format("{:.1f} GiB free here", static_cast<double>(bytes) / kGiB)};
  if (bytes < kEnough) {
    finding.verdict = Verdict::advice;
    finding.remedy = "checkpoints and merged models are as large as the model; set output_dir on a larger disk";
  }
  return finding;
}

Finding recipes() {
  const std::filesystem::path folder = installed_recipes();
  const std::size_t count = list_recipes(folder).size();
  if (count > 0) return {Verdict::good, "recipes", fmt::format("{} shipped, in {}", count, folder.string())};
  return {Verdict::bad, "recipes", fmt::format("none in {}", folder.string()),
          "build again from the source folder, or give --recipe a path"};
}

std::string describe(const GraphicsDriver& driver) {
  std::string text = fmt::format("driver for CUDA {}.{}", driver.cuda_version / 1000, driver.cuda_version % 1000 / 10);
  for (const GraphicsCard& card : driver.cards)
    text += fmt::format("; {}, {:.0f} GiB, compute capability {}.{}", card.name,
                        static_cast<double>(card.memory_bytes) / kGiB, card.capability / 10, card.capability % 10);
  return driver.problem.empty() ? text : text + "; " + driver.problem;
}

Finding graphics() {
  constexpr int kOldest = 75, kWithBf16 = 80;  // Turing: what the kernels are compiled for; Ampere
  const std::optional<GraphicsDriver> driver = find_graphics_driver();
  const std::string built = at::globalContext().hasCUDART() ? "built with CUDA" : "built without CUDA";
  if (!driver)
    return {Verdict::advice, "GPU", built + ", no NVIDIA driver",
            "training runs on the processor; for a GPU install NVIDIA's driver (libcuda.so.1)"};
  Finding finding{Verdict::good, "GPU", fmt::format("{}, {}", built, describe(*driver))};
  const auto any_before = [&](int capability) {
    return std::any_of(driver->cards.begin(), driver->cards.end(),
                       [&](const GraphicsCard& card) { return card.capability < capability; });
  };
  if (driver->cards.empty())
    finding.remedy = "check nvidia-smi and CUDA_VISIBLE_DEVICES";
  else if (!at::globalContext().hasCUDART())
    finding.remedy = "install the CUDA toolkit (nvcc) and build again with -DTUNE_CUDA=ON to use it";
  else if (any_before(kOldest))
    finding.remedy = "cards before compute capability 7.5 are not supported; choose another with CUDA_VISIBLE_DEVICES";
  else if (!at::globalContext().hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0)
    finding.remedy =
        fmt::format("LibTorch {} does not see it: the driver may be too old for it, update the driver", TORCH_VERSION);
  else if (any_before(kWithBf16))
    finding.remedy = "cards before compute capability 8.0 have no bf16: write train.precision: fp16";
  if (!finding.remedy.empty()) finding.verdict = Verdict::advice;
  return finding;
}

// Of what is linked; asked by name, because a program without CUDA has neither.
Finding cuda_libraries() {
  std::string text;
  if (const auto version = reinterpret_cast<std::size_t (*)()>(dlsym(RTLD_DEFAULT, "cudnnGetVersion"))) {
    const std::size_t code = version();
    text += fmt::format("cuDNN {}.{}.{}", code / 10000, code / 100 % 100, code % 100);
  }
  int code = 0;
  const auto version = reinterpret_cast<int (*)(int*)>(dlsym(RTLD_DEFAULT, "ncclGetVersion"));
  if (version != nullptr && version(&code) == 0)
    text += fmt::format("{}NCCL {}.{}.{}", text.empty() ? "" : ", ", code / 10000, code / 100 % 100, code % 100);
  return {Verdict::good, "libraries", text.empty() ? "no cuDNN, no NCCL: not needed without CUDA" : text};
}

void print(const Finding& finding) {
  constexpr const char* kMarks[] = {"ok  ", "note", "BAD "};
  fmt::print("{}  {:<10}{}\n", kMarks[static_cast<int>(finding.verdict)], finding.subject, finding.found);
  if (!finding.remedy.empty()) fmt::print("                -> {}\n", finding.remedy);
}

}  // namespace

int doctor_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  options.add_options()("distributed", "start the ranks as tune run would, and measure what passes between them")(
      "device", po::value<std::string>()->default_value("auto"), "of --distributed: auto, cpu or cuda");
  add_launch_options(options);
  po::variables_map values;
  if (!parse_arguments(
          arguments, "doctor",
          "What this machine has and lacks for training, with the remedy. Exit code 1 when it cannot work.",
          "tune doctor --distributed --nproc 8", options, values))
    return 0;
  if (values.count("distributed") != 0) return examine_ranks(values, arguments);
  for (const char* name : {"nproc", "nnodes", "node-rank", "master-addr", "master-port", "device"})
    if (values.count(name) != 0 && !values[name].defaulted())
      throw Error{Fault::recipe, {}, fmt::format("--{} belongs to --distributed", name), "add it"};
  bool healthy = true;
  for (const Finding& finding :
       {program(), processor(), threads(), memory(), disk(), recipes(), graphics(), cuda_libraries()}) {
    print(finding);
    healthy = healthy && finding.verdict != Verdict::bad;
  }
  return healthy ? 0 : 1;
}

}  // namespace tune
