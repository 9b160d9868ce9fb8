#include "train/metrics/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>

#include "checkpoints/files/atomic_folder.h"

namespace tune {
namespace {

constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78u : 0u);
    table[i] = value;
  }
  return table;
}

template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

std::uint32_t masked(std::uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u; }

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

// Protobuf fields: tag = number << 3 | wire type (0 varint, 1 fixed64, 2 length-delimited, 5 fixed32).
std::string field_bytes(int number, std::string_view bytes) {
  return varint(static_cast<std::uint64_t>(number) << 3 | 2) + varint(bytes.size()) + std::string(bytes);
}
std::string field_varint(int number, std::uint64_t value) {
  return varint(static_cast<std::uint64_t>(number) << 3) + varint(value);
}
std::string field_double(int number, double value) {
  return varint(static_cast<std::uint64_t>(number) << 3 | 1) + raw(value);
}
std::string field_float(int number, float value) {
  return varint(static_cast<std::uint64_t>(number) << 3 | 5) + raw(value);
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

constexpr std::string_view kPrefix = "events.out.tfevents.";

std::filesystem::path event_file(const std::filesystem::path& folder) {
  create_folders(folder);
  return folder / fmt::format("{}{:.6f}.{}", kPrefix, wall_time(), getpid());
}

}  // namespace

void remove_event_files(const std::filesystem::path& folder) {
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(folder, absent))
    if (entry.path().filename().string().starts_with(kPrefix)) remove_atomically(entry.path());
}

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<std::uint32_t, 256> kTable = crc_table();
  std::uint32_t crc = ~0u;
  for (const char c : bytes) crc = kTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

TensorBoard::TensorBoard(const std::filesystem::path& folder, std::int64_t first_step, bool evaluated)
    : file_(event_file(folder)) {
  record(field_double(1, wall_time()) + field_bytes(3, "brain.Event:2"));
  // SessionLog START: TensorBoard discards what an earlier attempt wrote from this step on. All that step 0 has is an
  // evaluation.
  const std::int64_t first_new = first_step == 0 && !evaluated ? 0 : first_step + 1;
  record(field_double(1, wall_time()) + field_varint(2, static_cast<std::uint64_t>(first_new)) +
         field_bytes(7, field_varint(1, 1)));
}

void TensorBoard::write(const StepReport& report) {
  std::string summary;
  const auto add = [&](const std::string& tag, const auto& value) {
    if (value) summary += field_bytes(1, field_bytes(1, tag) + field_float(2, static_cast<float>(*value)));
  };
  add("train/loss", report.loss);
  add("train/learning_rate", report.learning_rate);
  add("train/grad_norm", report.grad_norm);
  add("train/loss_scale", report.loss_scale);
  add("train/tokens_per_s", report.tokens_per_s);
  add("train/peak_memory", report.peak_memory);
  if (report.preference) {
    const std::string prefix = report.eval_loss ? "eval/" : "train/";
    add(prefix + "rewards/margins", report.preference->margin());
    add(prefix + "rewards/accuracies", report.preference->accuracy);
    add(prefix + "kl", report.preference->kl);
  }
  add("train/router_aux_loss", report.router_aux_loss);
  for (std::size_t i = 0; report.expert_share && i < report.expert_share->size(); ++i)
    add(fmt::format("experts/share_{}", i), std::optional((*report.expert_share)[i]));
  add("eval/eval_loss", report.eval_loss);
  record(field_double(1, wall_time()) + field_varint(2, static_cast<std::uint64_t>(report.step)) +
         field_bytes(5, summary));
}

void TensorBoard::record(const std::string& event) {
  const std::string length = raw(static_cast<std::uint64_t>(event.size()));
  file_.write(length + raw(masked(crc32c(length))) + event + raw(masked(crc32c(event))));
}

}  // namespace tune
