#pragma once
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tune {

/// Random numbers that depend on `seed` and the kind of device alone: the same ones in a run that is resumed.
at::Generator random_stream(const at::Device& device, std::uint64_t seed);

/// A seed for what is called so: the same number everywhere.
std::uint64_t stream_of(const std::string& name, std::int64_t seed);

/// NEFTune (Jain et al. 2023): adds to each row of embeddings x [tokens, hidden] noise that is uniform in
/// +-alpha / sqrt(length * hidden), where length is that of its document. document_starts: as PackedBatch has them.
void add_neftune_noise_(at::Tensor& x, const std::vector<std::int32_t>& document_starts, double alpha,
                        std::uint64_t seed);

}  // namespace tune
