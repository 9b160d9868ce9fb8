#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoints/huggingface/model_config.h"

namespace tune {

/// How much each column of the weights counts, measured on calibration data: the mean square of what it is multiplied
/// with. Quantisers choose their scales so that the columns that count are off by less.
struct ImportanceMatrix {
  struct Columns {
    std::vector<float> squares;  // [columns], sums over the tokens
    std::int64_t tokens = 0;     // 0 = of an expert that no token chose
  };
  std::map<std::string, Columns> of_weight;  // by Hugging Face names; matrices that aren't there have none
  std::string dataset;                       // what it was measured on
  std::int64_t rows = 0, longest_row = 0;    // of it, in tokens

  bool empty() const { return of_weight.empty(); }

  /// [columns] mean squares; all 1 where no token was seen, and nothing where the matrix doesn't know the weight.
  std::vector<float> of(const std::string& weight) const;
};

/// As llama-imatrix writes it and llama-quantize reads it: for each weight `NAME.in_sum2` [experts, columns] and
/// `NAME.counts` [experts, 1], fp32, experts stacked, under GGUF's names.
void write_importance_matrix(const ImportanceMatrix& matrix, const std::filesystem::path& path);

/// Error{Fault::data} for a file that is none, isn't of a model of this shape, or holds numbers that are none.
ImportanceMatrix read_importance_matrix(const std::filesystem::path& path, const ModelConfig& config);

}  // namespace tune
