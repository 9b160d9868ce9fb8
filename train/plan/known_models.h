#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoints/huggingface/model_config.h"

namespace tune {

/// One published base model. Nothing here decides how a model is computed (that is its own config.json); it is for
/// choosing one, and for planning before there are any files.
struct KnownModel {
  std::string name;           // as recipes are called: "llama2-7b-chat"
  std::string repository;     // where its Hugging Face folder is published: "meta-llama/Llama-2-7b-chat-hf"
  ModelConfig config;         // of that folder's config.json
  std::string licence;        // its short name
  std::string chat_template;  // as data.chat_template spells it; "none" for models without a prompt format
  bool infilling = false;     // whether it has the tokens that data sets of type fim need
  std::string published;      // what its makers measured, or what is particular about it
};

struct ModelFamily {
  std::string name;
  std::string languages;
  std::vector<std::string> strengths, limits;  // as published
  std::vector<std::string> sources;            // of these and of the models' figures
  std::vector<KnownModel> models;
};

/// Where the facts come from: docs/models.md.
const std::vector<ModelFamily>& known_families();

/// The model of that name: "llama2-7b", "meta-llama/Llama-2-7b-hf" or its last part, in any case. nullptr: not known.
const KnownModel* find_known_model(const std::string& name);
const ModelFamily& family_of(const KnownModel& model);

/// Parameters that act on one token: of each mixture of experts only those that the token visits.
std::int64_t active_parameters(const ModelConfig& config);

}  // namespace tune
