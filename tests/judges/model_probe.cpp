// What our decoder computes, for the judges: logits, losses and every gradient of one request, as a safetensors file.
//   model_probe < request.json
//   {"model": PATH, "dtype": "fp32", "fp8_base": false, "gradient_checkpointing": false, "backward": true, "scale": 1,
//    "adapter": {"r": 4, "alpha": 8, "targets": ["q_proj"], "init": PEFT_FOLDER},     absent: every weight is trained
//    "batches": [[{"ids": [...], "trained": [0/1 ...]}, ...], ...], "output": FILE}
//   logits.<batch> [tokens, vocab], loss.<batch> [1] (the sum over trained tokens); of scale * the sum of all losses
//   gradient.<parameter>; and value.<parameter>, what the parameter is at the start.
#include <ATen/ATen.h>

#include <deque>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "checkpoints/base_model.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/safetensors/named_bytes.h"
#include "recipes/schema/error.h"
#include "train/model/decoder.h"
#include "train/objectives/supervised.h"

namespace {

using nlohmann::json;

// Holds the tensors until they are written.
class Answers {
 public:
  void add(const std::string& name, const at::Tensor& tensor) {
    const at::Tensor& held = tensors_.emplace_back(tensor.detach().to(at::kFloat).cpu().contiguous().clone());
    named_.push_back({.name = name,
                      .dtype = "F32",
                      .shape = held.sizes().vec(),
                      .bytes = {static_cast<const std::byte*>(held.const_data_ptr()), held.nbytes()}});
  }
  void write(const std::string& path) const { tune::write_safetensors(path, named_); }

 private:
  std::deque<at::Tensor> tensors_;
  std::vector<tune::NamedBytes> named_;
};

tune::PackedBatch read_batch(const json& documents) {
  tune::PackedBatch batch;
  for (const json& document : documents) {
    const auto ids = document.at("ids").get<std::vector<std::int32_t>>();
    const auto trained = document.at("trained").get<std::vector<int>>();
    batch.document_starts.push_back(static_cast<std::int32_t>(batch.ids.size()));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      batch.ids.push_back(ids[i]);
      batch.positions.push_back(static_cast<std::int32_t>(i));
      batch.labels.push_back(i + 1 < ids.size() && trained[i + 1] != 0 ? ids[i + 1] : tune::kNoLabel);
    }
  }
  batch.document_starts.push_back(static_cast<std::int32_t>(batch.ids.size()));
  return batch;
}

tune::DecoderOptions read_options(const json& request) {
  tune::DecoderOptions options;
  options.dtype = request.at("dtype") == "bf16" ? tune::Dtype::bf16 : tune::Dtype::fp32;
  options.fp8_base = request.value("fp8_base", false);
  options.gradient_checkpointing = request.value("gradient_checkpointing", false);
  options.training = request.value("backward", true);
  options.train_router = request.value("train_router", false);
  options.router_aux_loss_coef = request.value("router_aux_loss_coef", 0.0);
  options.adapter.type = tune::AdapterType::none;
  if (const auto adapter = request.find("adapter"); adapter != request.end() && adapter->is_object()) {
    options.adapter = {.type = tune::AdapterType::lora,
                       .lora_r = adapter->at("r"),
                       .lora_alpha = adapter->at("alpha"),
                       .lora_target_modules = adapter->at("targets"),
                       .init_adapter = adapter->value("init", "")};
  }
  return options;
}

void answer(const json& request) {
  const tune::BaseModel base = tune::open_base_model(request.at("model").get<std::string>());
  const tune::DecoderOptions options = read_options(request);
  tune::Decoder decoder(base.config, *base.weights, options);

  Answers answers;
  if (options.training)
    for (const tune::Parameter& parameter : decoder.trained()) answers.add("value." + parameter.name, parameter.master);
  std::size_t number = 0;
  for (const json& documents : request.at("batches")) {
    const tune::PackedBatch batch = read_batch(documents);
    std::vector<std::int64_t> rows(batch.ids.size());
    std::iota(rows.begin(), rows.end(), 0);
    answers.add("logits." + std::to_string(number), tune::logits(decoder, batch, rows));
    const tune::Loss loss = tune::supervised_loss(decoder, batch, request.value("scale", 1.0), options.training);
    answers.add("loss." + std::to_string(number), at::full({1}, loss.sum));
    if (loss.router_load) {
      answers.add("aux_loss." + std::to_string(number), at::full({1}, loss.router_load->aux_loss));
      answers.add("expert_share." + std::to_string(number), at::tensor(loss.router_load->expert_share));
    }
    ++number;
  }
  if (options.training)
    for (const tune::Parameter& parameter : decoder.trained())
      answers.add("gradient." + parameter.name, parameter.gradient);
  answers.write(request.at("output").get<std::string>());
}

}  // namespace

int main() {
  try {
    answer(json::parse(std::cin));
    return 0;
  } catch (const tune::Error& error) {
    std::cerr << error.what() << '\n';
    return error.exit_code();
  }
}
