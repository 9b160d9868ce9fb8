#include "recipes/schema/batch_sizes.h"

#include <fmt/format.h>

namespace tune {
namespace {

constexpr std::int64_t kUsualPerDevice = 8;

std::int64_t largest_divisor(std::int64_t number, std::int64_t limit) {
  while (number % limit != 0) --limit;
  return limit;
}

// number / divisor, or a problem that names the multiples next to it.
std::int64_t divide(std::int64_t global, std::int64_t divisor, const char* divisor_name, Reading& reading) {
  if (global % divisor == 0) return global / divisor;
  const std::int64_t below = global / divisor * divisor;
  const std::string multiples =
      below == 0 ? fmt::format("{} would be", divisor) : fmt::format("{} or {} would be", below, below + divisor);
  reading.problems.add(reading.place_of("train.global_batch_size"),
                       fmt::format("global_batch_size {} is no multiple of {} {}", global, divisor_name, divisor),
                       multiples);
  return 1;
}

}  // namespace

void derive_batch_sizes(TrainOptions& train, Reading& reading) {
  std::int64_t& global = train.global_batch_size;  // 0 = not given, for all three
  std::int64_t& per_device = train.per_device_train_batch_size;
  std::int64_t& accumulation = train.gradient_accumulation_steps;

  if (global > 0 && per_device > 0 && accumulation > 0) {
    if (per_device * accumulation == global) return;
    reading.problems.add(reading.place_of("train.global_batch_size"),
                         fmt::format("global_batch_size is {}, but {} per device x {} accumulation steps = {}", global,
                                     per_device, accumulation, per_device * accumulation),
                         "give two of the three, the third is derived");
    return;
  }
  if (global > 0) {
    if (accumulation > 0)
      per_device = divide(global, accumulation, "gradient_accumulation_steps", reading);
    else if (per_device == 0)
      per_device = largest_divisor(global, kUsualPerDevice);
    if (accumulation == 0) accumulation = divide(global, per_device, "per_device_train_batch_size", reading);
    return;
  }
  if (per_device == 0) per_device = kUsualPerDevice;
  if (accumulation == 0) accumulation = 1;
  global = per_device * accumulation;
}

}  // namespace tune
