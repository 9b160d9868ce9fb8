#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace tune {

/// One named array of a training state; `bytes` lies in the owner's memory. dtype as in safetensors ("F32", "BF16").
struct NamedBytes {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Everything a run needs to go on as if it had never stopped. The position in the data is the step (data/loader.h).
struct TrainingState {
  std::int64_t step = 0;              // optimizer steps done
  std::vector<NamedBytes> weights;    // trained parameters; PEFT names for an adapter, Hugging Face names else
  std::vector<NamedBytes> optimizer;  // moments and fp32 masters, "<parameter>.exp_avg", ...
  std::map<std::string, std::string>
      facts;  // what decides the result, and what a resumed run reports; train/run_record.h
};

}  // namespace tune
