#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "checkpoints/files/file_system.h"
#include "train/metrics/report.h"

namespace tune {

/// TensorBoard's event file. A record: u64 length, masked CRC-32C of it, the bytes, masked CRC-32C of them, all
/// little-endian; the bytes are an Event message: 1 wall_time (double), 2 step (int64), 3 file_version (string),
/// 5 summary { 1 value { 1 tag (string), 2 simple_value (float) } }. Tags are the keys of metrics.jsonl behind train/
/// or eval/.
class TensorBoard {
 public:
  /// A new file for every start; readers drop an earlier file's steps above first_step. evaluated: as of JsonLines.
  TensorBoard(const std::filesystem::path& folder, std::int64_t first_step, bool evaluated);
  void write(const StepReport& report);

 private:
  void record(const std::string& event);

  OutputFile file_;
};

/// Of earlier runs in this folder; other files stay.
void remove_event_files(const std::filesystem::path& folder);

std::uint32_t crc32c(std::string_view bytes);  // Castagnoli, as RFC 3720 appendix B.4 defines and tests it

}  // namespace tune
