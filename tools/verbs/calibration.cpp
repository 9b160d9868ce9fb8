#include "tools/verbs/calibration.h"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoints/base_model.h"
#include "checkpoints/huggingface/folder.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "train/inputs.h"
#include "train/model/input_statistics.h"

namespace tune {

namespace {

/// More tell a quantiser nothing new: what is measured is one mean a column.
constexpr std::int64_t kCalibrationTokens = 1 << 17;

/// The recipe with nothing but the calibration data, as rows to evaluate.
Recipe calibrated_on(const Recipe& trained, const std::filesystem::path& data) {
  Recipe recipe = trained;
  recipe.data.overflow = Overflow::truncate;
  recipe.data.eval_datasets = std::move(recipe.data.datasets);
  recipe.data.datasets.clear();
  if (data.empty()) {
    for (DatasetOptions& dataset : recipe.data.eval_datasets) dataset.weight = 1;
    return recipe;
  }
  DatasetOptions dataset;
  if (!recipe.data.eval_datasets.empty()) dataset = recipe.data.eval_datasets.front();
  dataset.path = data.string();
  dataset.weight = 1;
  dataset.holdout_every = 0;
  if (data.extension() == ".txt") dataset.type = DatasetType::text;
  recipe.data.eval_datasets = {dataset};
  return recipe;
}

std::string name_of_data(const Recipe& recipe) {
  std::string names;
  for (const DatasetOptions& dataset : recipe.data.eval_datasets)
    names += (names.empty() ? "" : ", ") + std::filesystem::path(dataset.path).filename().string();
  return names;
}

}  // namespace

ImportanceMatrix measure_importance(const Recipe& trained, const ExportSource& source,
                                    const std::filesystem::path& data) {
  const Recipe recipe = calibrated_on(trained, data);
  if (recipe.data.eval_datasets.empty())
    throw Error{Fault::recipe, {}, "there is no data to measure importance on", "give some: --data rows.jsonl"};
  const Inputs inputs = open_inputs(recipe, Purpose::evaluation);
  const TokenDataset& rows = *inputs.evaluation_rows;
  if (rows.size() == 0)
    throw Error{Fault::data, {name_of_data(recipe)}, "has no row to measure importance on", "give other data"};
  std::int64_t all_tokens = 0;
  for (std::int64_t i = 0; i < rows.size(); ++i) all_tokens += rows.length(i);
  const std::int64_t stride = std::max<std::int64_t>(1, all_tokens / kCalibrationTokens);

  std::unique_ptr<WeightSource> replaced;
  if (source.weights) replaced = open_huggingface_weights(*source.weights);
  InputStatistics statistics;
  Decoder decoder(inputs.base.config, replaced ? *replaced : *inputs.base.weights,
                  decoder_options(recipe, inputs.base.config, false));
  decoder.no_dropout();
  decoder.collect_inputs(&statistics);
  ImportanceMatrix matrix{.dataset = name_of_data(recipe)};
  std::int64_t tokens = 0;
  for (std::int64_t i = 0; i < rows.size(); i += stride) {
    const auto ids = rows.row(i).ids;
    decoder.forward(one_document({ids.begin(), ids.end()}), false);
    matrix.longest_row = std::max(matrix.longest_row, rows.length(i));
    tokens += rows.length(i);
    ++matrix.rows;
  }
  for (auto& [module, columns] : statistics.by_module())
    if (!module.ends_with("block_sparse_moe.gate"))  // routers are never quantised
      matrix.of_weight[module + ".weight"] = {columns.squares, columns.tokens};
  tell("importance measured on {} tokens of {} rows of {}\n", tokens, matrix.rows, matrix.dataset);
  for (const auto& [weight, columns] : matrix.of_weight)
    if (columns.tokens == 0 && weight.ends_with(".w1.weight"))
      tell("warning: no token chose the expert of {}: its columns count the same; more data would help\n", weight);
  return matrix;
}

void check_calibration(const Recipe& recipe) {
  for (const ExportOptions& wanted : recipe.exports) {
    const std::filesystem::path path = wanted.imatrix;
    if (path.extension() == ".gguf")
      read_importance_matrix(path, open_base_model(recipe.model.base_model).config);
    else if (!path.empty())
      open_inputs(calibrated_on(recipe, path), Purpose::evaluation);
  }
}

ImportanceMatrix importance_matrix(const Recipe& trained, const ExportSource& source,
                                   const std::filesystem::path& path) {
  if (path.extension() == ".gguf")
    return read_importance_matrix(path, open_base_model(trained.model.base_model).config);
  return measure_importance(trained, source, path);
}

}  // namespace tune
