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
  /// [rows, columns] of a matrix that is quantised while it is read. destination is as long as its bytes in NF4
  /// (checkpoints/quantize/nf4.h) or, where there are fp8_scales, as its values in fp8 (train/kernels/fp8.h). Empty: it
  /// is kept as it is.
  std::vector<std::int64_t> quantized_shape;
  at::Tensor fp8_scales;  // of the rows, as bytes
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

/// The bytes of a slot that is quantised, in the host's memory. A few rows of the matrix are held in fp32 at a time.
/// Errors as load_weights().
struct QuantizedBytes {
  at::Tensor values, fp8_scales;  // as the slot's destination and fp8_scales; undefined where these are
};
QuantizedBytes load_quantized(const WeightSource& weights, const WeightSlot& slot);

/// Overwrites the adapter parameters with those of the PEFT folder adapter.init_adapter.
/// Error{Fault::data} names what is missing, surplus or misshapen, another rank or scale, and NaN or infinity.
void load_adapter(const AdapterOptions& adapter, std::vector<Parameter>& parameters);

}  // namespace tune
