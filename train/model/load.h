#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoints/weights.h"
#include "train/model/decoder.h"

namespace tune {

/// Where one stored tensor goes: contiguous memory of the wanted dtype and shape, on any device.
struct WeightSlot {
  std::string name;
  at::Tensor destination;
  /// [rows, columns] of a matrix that is quantised while it is read: destination is as long as its bytes in NF4
  /// (checkpoints/quantize/nf4.h). Empty: it is kept as it is.
  std::vector<std::int64_t> nf4_shape;
};

/// A part of a stored tensor of that shape: as many elements as `destination` has, in row-major order, from `first` on.
struct WeightPart {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t first = 0;
  at::Tensor destination;
};

/// Fills every slot, or part, several at a time. Error{Fault::data} names a tensor that holds NaN or infinity.
void load_weights(const WeightSource& weights, const std::vector<WeightSlot>& slots);
void load_parts(const WeightSource& weights, const std::vector<WeightPart>& parts);

/// One matrix in NF4, in the host's memory. A few rows of it are held in fp32 at a time. Errors as load_weights().
at::Tensor load_nf4(const WeightSource& weights, const std::string& name, const std::vector<std::int64_t>& shape);

/// Overwrites the adapter parameters with those of the PEFT folder adapter.init_adapter.
/// Error{Fault::data} names what is missing, surplus or misshapen, another rank or scale, and NaN or infinity.
void load_adapter(const AdapterOptions& adapter, std::vector<Parameter>& parameters);

}  // namespace tune
