#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoints/onnx/adapter.h"
#include "checkpoints/peft/adapter_folder.h"
#include "tools/export/onnx/builder.h"

namespace tune {

/// A LoRA adapter that stays apart from the weights. The graph has two more inputs for each layer that it changes, A
/// [in, rank] and B [rank, out] with the scale in it, called as PEFT calls them behind "base_model.model.". By default
/// their rank is 0, so that the graph computes what the base does; the adapter's file gives them their values when it
/// is loaded. Adapter and graph must outlive it.
class SeparateAdapter {
 public:
  SeparateAdapter(const AdapterFolder& adapter, Dtype computes_in, OnnxGraphBuilder& graph)
      : adapter_(adapter), computes_in_(computes_in), graph_(graph) {}

  /// result + (x A) B where the adapter has factors for the module, else result. result is what the layer makes of x.
  std::string add(const std::string& result, const std::string& x, const std::string& module);

  /// Of every module that add() has met. Holds one factor at a time. Error{Fault::data} for a number that is none, or
  /// none in the computing type; Error{Fault::running} when the disk refuses.
  void write(const std::filesystem::path& path) const;

 private:
  /// An input with an empty value by default; rank_axis: which of its two is the rank.
  std::string declare(const std::string& name, std::int64_t other_size, std::int64_t rank, std::size_t rank_axis);
  std::vector<std::byte> bytes_of(const std::string& input) const;

  const AdapterFolder& adapter_;
  Dtype computes_in_;
  OnnxGraphBuilder& graph_;
  std::vector<OnnxAdapterParameter> parameters_;
};

}  // namespace tune
