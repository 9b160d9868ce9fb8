#pragma once
#include <memory>
#include <optional>

#include "checkpoints/base_model.h"
#include "data/loader.h"
#include "data/templates/template.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/recipe.h"
#include "train/model/decoder.h"
#include "train/model/generate.h"
#include "train/model/weight_keeper.h"

namespace tune {

/// Everything a recipe names, opened and checked: what there is to know before a weight is loaded.
struct Inputs {
  BaseModel base;
  std::unique_ptr<Tokenizer> tokenizer;
  const ChatTemplate* chat_template = nullptr;
  std::unique_ptr<TokenDataset> train_rows;       // null when only evaluation was asked for
  std::unique_ptr<TokenDataset> evaluation_rows;  // null without eval_datasets
};

/// Where a run keeps its tokens when data.cache_dir doesn't say.
std::filesystem::path token_cache_of(const Recipe& recipe);

/// What they are for. Only training writes into output_dir; the others use the tokens that a run has left there, and
/// keep none of their own unless data.cache_dir says where. evaluation: no train_rows.
enum class Purpose { training, planning, evaluation };

/// Error{Fault::data} for models and data, among them a tokenizer that has ids the model has no row for.
Inputs open_inputs(const Recipe& recipe, Purpose purpose);

/// What the decoder has to know of the recipe. device auto becomes cuda where there is one.
/// Error{Fault::recipe} when cuda is asked for and there is none.
DecoderOptions decoder_options(const Recipe& recipe, const ModelConfig& config, bool training);

/// keeper: of the frozen weights, or null. Error{Fault::data} names a tensor that holds NaN or infinity.
std::unique_ptr<Decoder> load_decoder(const BaseModel& base, const DecoderOptions& options,
                                      std::unique_ptr<WeightKeeper> keeper = nullptr);

/// The answer to one question, in the recipe's template.
std::string answer(Decoder& decoder, const Inputs& inputs, const std::string& question, const GenerateOptions& options);

}  // namespace tune
