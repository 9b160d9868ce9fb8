#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "train/model/weight_keeper.h"

namespace tune {

/// For updates in the backward pass: all weights stay here, but a unit's gradients have memory from take_gradients() to
/// pass_on_gradients() only. Decoder::on_gradients() is where they are used. Parameters are whole tensors.
class UnitGradients : public WeightKeeper {
 public:
  explicit UnitGradients(const DecoderOptions& options) : options_(options) {}

  bool shares() const override { return false; }
  std::vector<Parameter> add(const WeightUnit& unit, const WeightSource& source) override;
  void take(std::size_t, std::optional<std::size_t>) override {}
  void leave(std::size_t) override {}
  void take_gradients(std::size_t unit) override;
  void pass_on_gradients(std::size_t unit) override;
  void finish_gradients() override {}

 private:
  struct Part {
    at::Tensor value, gradient;  // of a parameter
  };
  struct Piece {
    at::Tensor weight, gradient;
    std::vector<Part> parts;
  };

  const DecoderOptions options_;
  std::vector<std::vector<Piece>> units_;
};

}  // namespace tune
