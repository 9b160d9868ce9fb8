#include "train/model/random_stream.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

namespace tune {

at::Generator random_stream(const at::Device& device, std::uint64_t seed) {
  if (device.is_cpu()) return at::detail::createCPUGenerator(seed);
  at::Generator generator =
      at::globalContext().getAcceleratorHooksInterface(device.type()).getNewGenerator(device.index());
  generator.set_current_seed(seed);
  return generator;
}

// FNV-1a, which std::hash doesn't promise to be.
std::uint64_t stream_of(const std::string& name, std::int64_t seed) {
  std::uint64_t hash = 14695981039346656037ull ^ static_cast<std::uint64_t>(seed);
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return hash;
}

void add_neftune_noise_(at::Tensor& x, const std::vector<std::int32_t>& document_starts, double alpha,
                        std::uint64_t seed) {
  const at::Tensor noise = at::empty(x.sizes(), x.options().dtype(at::kFloat));
  noise.uniform_(-1, 1, random_stream(x.device(), seed));
  for (std::size_t i = 0; i + 1 < document_starts.size(); ++i) {
    const std::int64_t first = document_starts[i], length = document_starts[i + 1] - first;
    noise.narrow(0, first, length).mul_(alpha / std::sqrt(static_cast<double>(length * x.size(1))));
  }
  x.add_(noise);
}

}  // namespace tune
