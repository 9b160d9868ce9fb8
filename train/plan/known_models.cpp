#include "train/plan/known_models.h"

#include <algorithm>
#include <cctype>

#include "train/plan/plan.h"

namespace tune {
namespace {

struct Shape {
  std::int64_t hidden, layers, heads, kv_heads, inner;
};
constexpr Shape k7b = {4096, 32, 32, 32, 11008}, k13b = {5120, 40, 40, 40, 13824}, k34b = {8192, 48, 64, 8, 22016},
                k70b = {8192, 80, 64, 8, 28672}, kMistral = {4096, 32, 32, 8, 14336}, kSolar = {4096, 48, 32, 8, 14336},
                kTiny = {2048, 22, 32, 4, 5632};

ModelConfig llama(const Shape& shape, std::int64_t positions = 4096, double theta = 1e4, std::int64_t vocab = 32000) {
  return {.model_type = "llama",
          .vocab_size = vocab,
          .hidden_size = shape.hidden,
          .intermediate_size = shape.inner,
          .num_hidden_layers = shape.layers,
          .num_attention_heads = shape.heads,
          .num_key_value_heads = shape.kv_heads,
          .head_dim = shape.hidden / shape.heads,
          .max_position_embeddings = positions,
          .rms_norm_eps = 1e-5,
          .rope_theta = theta,
          .bos_token_id = 1,
          .eos_token_ids = {2}};
}

ModelConfig mistral() {
  ModelConfig config = llama(kMistral, 32768);
  config.model_type = "mistral";
  config.sliding_window = 4096;
  return config;
}

ModelConfig mixtral() {
  ModelConfig config = llama(kMistral, 32768, 1e6);
  config.model_type = "mixtral";
  config.num_local_experts = 8;
  config.num_experts_per_tok = 2;
  config.router_aux_loss_coef = 0.02;
  return config;
}

constexpr std::int64_t kInfillingVocab = 32016;  // the 32000 of Llama 2, and tokens around gaps

constexpr const char *kLlama2Licence = "Llama 2 Community", *kApache = "Apache-2.0", *kMit = "MIT",
                     *kNonCommercial = "CC BY-NC 4.0";

KnownModel llama2(const std::string& size, const Shape& shape, const std::string& published, bool chat = false) {
  const std::string variant = size + (chat ? "-chat" : "");
  return {.name = "llama2-" + variant,
          .repository = "meta-llama/Llama-2-" + variant + "-hf",
          .config = llama(shape),
          .licence = kLlama2Licence,
          .chat_template = chat ? "llama2" : "none",
          .published = published};
}

ModelFamily llama2_family() {
  return {"Llama 2",
          "English",
          {"2 trillion tokens of training; Chat is tuned for dialogue and safety with people's feedback",
           "three sizes of one design, the best documented of all; 70B shares keys and values (GQA)"},
          {"4096 tokens of context; meant for English, other languages are out of scope",
           "weak at code and mathematics below 70B",
           "the licence asks for Meta's permission above 700 million users a month"},
          {"https://arxiv.org/abs/2307.09288", "https://huggingface.co/meta-llama/Llama-2-7b-hf",
           "https://arxiv.org/abs/2310.16944 (MT-Bench)"},
          {llama2("7b", k7b, "MMLU 45.3, GSM8K 14.6, HumanEval 12.8"), llama2("7b", k7b, "MT-Bench 6.27", true),
           llama2("13b", k13b, "MMLU 54.8, GSM8K 28.7, HumanEval 18.3"), llama2("13b", k13b, "MT-Bench 6.65", true),
           llama2("70b", k70b, "MMLU 68.9, GSM8K 56.8, HumanEval 29.9"), llama2("70b", k70b, "MT-Bench 6.86", true)}};
}

ModelFamily mistral_family() {
  return {"Mistral 7B",
          "mainly English",
          {"better than Llama 2 13B on every benchmark of its paper, at half the size",
           "attention over a sliding window of 4096 tokens, so that long rows cost little"},
          {"a base model without any moderation", "beyond the window, tokens reach each other only through layers"},
          {"https://arxiv.org/abs/2310.06825", "https://huggingface.co/mistralai/Mistral-7B-v0.1"},
          {{"mistral-7b", "mistralai/Mistral-7B-v0.1", mistral(), kApache, "none", false,
            "MMLU 60.1, GSM8K 52.2, HumanEval 30.5"}}};
}

ModelFamily zephyr_family() {
  return {"Zephyr 7B β",
          "mainly English",
          {"Mistral 7B tuned on distilled conversations and preferences (dSFT, then DPO), with published settings",
           "the best 7B chat model on MT-Bench and AlpacaEval when it came out"},
          {"behind larger models at code and mathematics",
           "not aligned for safety: it is likely to write problematic text when asked to"},
          {"https://arxiv.org/abs/2310.16944", "https://huggingface.co/HuggingFaceH4/zephyr-7b-beta",
           "https://github.com/huggingface/alignment-handbook"},
          {{"zephyr-7b-beta", "HuggingFaceH4/zephyr-7b-beta", mistral(), kMit, "zephyr", false,
            "MT-Bench 7.34, AlpacaEval 90.60 %"}}};
}

ModelFamily mixtral_family() {
  return {"Mixtral 8x7B",
          "English, French, Italian, German, Spanish",
          {"better than or equal to Llama 2 70B on most benchmarks, with 12.9 billion parameters acting on a token",
           "32k tokens of context, trained at that length; strong at code and mathematics"},
          {"all 46.7 billion parameters have to lie in memory", "no moderation"},
          {"https://arxiv.org/abs/2401.04088", "https://huggingface.co/mistralai/Mixtral-8x7B-v0.1",
           "https://huggingface.co/mistralai/Mixtral-8x7B-Instruct-v0.1"},
          {{"mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", mixtral(), kApache, "none", false,
            "MMLU 70.6, GSM8K 74.4, HumanEval 40.2"},
           {"mixtral-8x7b-instruct", "mistralai/Mixtral-8x7B-Instruct-v0.1", mixtral(), kApache, "mistral", false,
            "MT-Bench 8.30"}}};
}

ModelFamily solar_family() {
  return {"SOLAR 10.7B",
          "English",
          {"Mistral 7B deepened to 48 layers (tune upscale) and trained on: more than models up to 30B on H6",
           "Instruct was tuned with plain SFT and DPO on open data"},
          {"4096 tokens of context", "Instruct is meant for a single turn, less for conversations",
           "Instruct is not for commercial use"},
          {"https://arxiv.org/abs/2312.15166", "https://huggingface.co/upstage/SOLAR-10.7B-v1.0",
           "https://huggingface.co/upstage/SOLAR-10.7B-Instruct-v1.0"},
          {{"solar-10.7b", "upstage/SOLAR-10.7B-v1.0", llama(kSolar), kApache, "none", false, "H6 66.04"},
           {"solar-10.7b-instruct", "upstage/SOLAR-10.7B-Instruct-v1.0", llama(kSolar), kNonCommercial, "solar", false,
            "H6 74.20"}}};
}

enum class CodeLlama { base, python, instruct };

// 7B and 13B Python models were made from the vocabulary without gaps, as was everything of 34B; all of 70B have the
// tokens, and its Python and Instruct models never saw long rows.
KnownModel code_llama(const std::string& size, const Shape& shape, CodeLlama variant, const std::string& published) {
  const bool is_70b = size == "70b", python = variant == CodeLlama::python, instruct = variant == CodeLlama::instruct;
  const std::int64_t vocab = is_70b || (size != "34b" && !python) ? kInfillingVocab : 32000;
  const bool long_rows = !is_70b || variant == CodeLlama::base;
  return {.name = "code-llama-" + size +
                  (python     ? "-python"
                   : instruct ? "-instruct"
                              : ""),
          .repository = "codellama/CodeLlama-" + size +
                        (python     ? "-Python-hf"
                         : instruct ? "-Instruct-hf"
                                    : "-hf"),
          .config = long_rows ? llama(shape, 16384, 1e6, vocab) : llama(shape, 4096, 1e4, vocab),
          .licence = kLlama2Licence,
          .chat_template = !instruct ? "none"
                           : is_70b  ? "codellama-70b"
                                     : "codellama",
          .infilling = vocab == kInfillingVocab && !python,
          .published = published};
}

ModelFamily code_llama_family() {
  using enum CodeLlama;
  return {"Code Llama",
          "code; English",
          {"Llama 2 trained on 500 billion tokens of code (70B: 1 trillion); Python: 100 billion of Python on top",
           "7B, 13B and 70B, base and Instruct, fill gaps (infilling, data sets of type fim)",
           "trained on rows of 16k tokens, useful up to 100k by extrapolation; 70B Python and Instruct only to 4096"},
          {"meant for code and English, all else is out of scope", "34B and Python do not fill gaps",
           "vocabulary, rope and context differ between sizes and variants: a recipe belongs to one of them"},
          {"https://arxiv.org/abs/2308.12950v3", "https://huggingface.co/codellama/CodeLlama-7b-hf",
           "https://huggingface.co/codellama/CodeLlama-70b-Instruct-hf"},
          {code_llama("7b", k7b, base, "HumanEval 33.5, MBPP 41.4"),
           code_llama("7b", k7b, python, "HumanEval 38.4, MBPP 47.6"),
           code_llama("7b", k7b, instruct, "HumanEval 34.8, MBPP 44.4"),
           code_llama("13b", k13b, base, "HumanEval 36.0, MBPP 47.0"),
           code_llama("13b", k13b, python, "HumanEval 43.3, MBPP 49.0"),
           code_llama("13b", k13b, instruct, "HumanEval 42.7, MBPP 49.4"),
           code_llama("34b", k34b, base, "HumanEval 48.8, MBPP 55.0"),
           code_llama("34b", k34b, python, "HumanEval 53.7, MBPP 56.2"),
           code_llama("34b", k34b, instruct, "HumanEval 41.5, MBPP 57.0"),
           code_llama("70b", k70b, base, "HumanEval 53.0, MBPP 62.4"),
           code_llama("70b", k70b, python, "HumanEval 57.3, MBPP 65.6"),
           code_llama("70b", k70b, instruct, "HumanEval 67.8, MBPP 62.2")}};
}

ModelFamily tinyllama_family() {
  return {"TinyLlama 1.1B",
          "English",
          {"Llama 2's architecture and tokenizer at a sixth of the smallest size, trained on 1 trillion tokens 3 times",
           "Chat was tuned like Zephyr (dSFT, then DPO) and speaks its format; small enough for a laptop"},
          {"2048 tokens of context", "knows and reasons little beside models of 7B"},
          {"https://arxiv.org/abs/2401.02385", "https://huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0"},
          {{"tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", llama(kTiny, 2048), kApache,
            "none", false, "HellaSwag 59.2"},
           {"tinyllama-1.1b-chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", llama(kTiny, 2048), kApache, "zephyr", false,
            "tuned on UltraChat and UltraFeedback"}}};
}

bool same_word(std::string_view a, std::string_view b) {
  const auto lower = [](char letter) { return std::tolower(static_cast<unsigned char>(letter)); };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](char x, char y) { return lower(x) == lower(y); });
}

}  // namespace

const std::vector<ModelFamily>& known_families() {
  static const std::vector<ModelFamily> families = {llama2_family(),   mistral_family(), zephyr_family(),
                                                    mixtral_family(),  solar_family(),   code_llama_family(),
                                                    tinyllama_family()};
  return families;
}

const KnownModel* find_known_model(const std::string& name) {
  for (const ModelFamily& family : known_families())
    for (const KnownModel& model : family.models)
      for (const std::string_view known : {std::string_view(model.name), std::string_view(model.repository),
                                           std::string_view(model.repository).substr(model.repository.find('/') + 1)})
        if (same_word(name, known)) return &model;
  return nullptr;
}

const ModelFamily& family_of(const KnownModel& model) {
  return *std::find_if(known_families().begin(), known_families().end(), [&](const ModelFamily& family) {
    return std::any_of(family.models.begin(), family.models.end(),
                       [&](const KnownModel& member) { return member.name == model.name; });
  });
}

std::int64_t active_parameters(const ModelConfig& config) {
  std::int64_t idle = 0;  // in a layer
  for (const LinearKind& linear : linear_kinds(config)) idle += (linear.count - linear.active) * linear.out * linear.in;
  return total_parameters(config) - config.num_hidden_layers * idle;
}

}  // namespace tune
