#include "train/plan/memory.h"

#include <algorithm>

#include "checkpoints/quantize/dynamic_map.h"
#include "checkpoints/quantize/nf4.h"
#include "train/plan/offload.h"
#include "train/plan/process.h"

namespace tune {
namespace {

constexpr std::int64_t kPreparedBytes = 75 << 20;  // oneDNN's prepared products
constexpr std::int64_t kCublasBytes = 40 << 20;    // its workspace, as train.deterministic asks for it

bool on_cuda(const Recipe& recipe) { return recipe.train.device == Device::cuda; }

// Rows of logits that exist at a time: train/kernels/cross_entropy.cpp.
std::int64_t logit_rows(const Recipe& recipe, std::int64_t tokens) {
  return std::min<std::int64_t>(tokens, on_cuda(recipe) ? 1024 : 256);
}

// LibTorch and the program itself: how much of it is resident differs between builds with and without CUDA by a factor
// of three, and between machines, so that what there is now is a better guess than any constant.
std::int64_t program_bytes() {
  static const std::int64_t now = resident_bytes();
  return now + kPreparedBytes;
}

// PiSSA multiplies with the factors that it began with, too.
std::int64_t width_of_a_rank(const AdapterOptions& adapter) {
  return adapter.init_lora_weights == LoraInit::pissa ? 2 : 1;
}

// B of the modules that share an input stands in one matrix [all their rows, all their ranks], zero off the diagonal.
std::int64_t dense_b_bytes(const ModelConfig& c, const AdapterOptions& adapter, std::int64_t element) {
  const std::vector<std::string> targets = adapted_modules(adapter, c);
  const auto ranks = [&](std::initializer_list<const char*> names) {  // in all layers
    std::int64_t sum = 0;
    for (const char* name : names)
      if (contains(targets, name)) sum += ranks_of(adapter, c, name);
    return sum;
  };
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  return width_of_a_rank(adapter) * element *
         ((q + 2 * kv) * ranks({"q_proj", "k_proj", "v_proj"}) +
          2 * c.intermediate_size * (ranks({"gate_proj", "up_proj"}) + c.num_local_experts * ranks({"w1", "w3"})));
}

// What the CUDA kernels' backward pass holds beside its operands (train/kernels/attention_cuda.cpp).
std::int64_t cuda_attention_bytes(const Recipe& recipe, const ModelConfig& c, std::int64_t tokens,
                                  std::int64_t element) {
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const bool grouped = c.num_attention_heads != c.num_key_value_heads, flash = element == 2 && c.head_dim <= 256;
  const std::int64_t per_token = q + (q + 2 * q) + (q + 2 * kv) + (grouped && !flash ? 2 * q : 0);
  if (!flash) return per_token * tokens * element;
  // FlashAttention sums d_q in fp32, each document padded by up to 128 rows; to be exact, once for each of as many
  // parts as give every multiprocessor of a large card work.
  constexpr std::int64_t kMultiprocessors = 132, kPadding = 128;
  const std::int64_t documents = recipe.train.per_device_train_batch_size, blocks = documents * c.num_attention_heads;
  const std::int64_t parts = recipe.train.deterministic ? (kMultiprocessors + blocks - 1) / blocks : 1;
  const std::int64_t rounded = (c.head_dim + 31) / 32 * 32;
  return per_token * tokens * element +
         parts * (tokens + kPadding * documents) * c.num_attention_heads * rounded * std::int64_t{4};
}

// A layer's forward without a tape: x, two normed ones, the middle and y; q, k, v; gate, up and their product.
std::int64_t evaluation_bytes(const Recipe& recipe, const ModelConfig& c, std::int64_t tokens, std::int64_t element) {
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const std::int64_t active = std::max<std::int64_t>(1, c.num_experts_per_tok),
                     rows_by_expert = c.num_local_experts > 0 ? 2 * active * c.hidden_size : 0;
  const std::int64_t layer =
      (5 * c.hidden_size + 2 * q + 2 * kv + 3 * active * c.intermediate_size + rows_by_expert) * tokens * element;
  const std::int64_t loss = (logit_rows(recipe, tokens) * c.vocab_size + 2 * c.hidden_size * tokens) * element;
  return std::max(layer, loss);
}

// The base model's weights in memory: a layer's norms and router are never quantised.
struct Weights {
  std::int64_t layer = 0;         // parameters of a layer
  std::int64_t layer_bytes = 0;   // of these what is gathered together where the model is sharded (WeightUnit)
  std::int64_t beside_bytes = 0;  // of these what is not
  std::int64_t last = 0;          // parameters of the norm and head, and of whatever they are tied to
};

Weights weights_of(const ModelConfig& c, const Recipe& recipe, std::int64_t element) {
  const bool nf4 = recipe.adapter.type == AdapterType::qlora, fp8 = recipe.train.precision == Precision::fp8,
             quantised = nf4 || fp8;
  Weights weights{.layer = 2 * c.hidden_size, .last = c.vocab_size * c.hidden_size + c.hidden_size};
  (quantised ? weights.beside_bytes : weights.layer_bytes) += 2 * c.hidden_size * element;
  for (const LinearKind& linear : linear_kinds(c)) {
    weights.layer += linear.count * linear.out * linear.in;
    if (quantised && linear.name != "gate")
      weights.layer_bytes += linear.count * (nf4 ? Nf4Layout(linear.out * linear.in).bytes
                                                 : linear.out * (linear.in + std::int64_t{sizeof(float)}));
    else
      (quantised ? weights.beside_bytes : weights.layer_bytes) += linear.count * linear.out * linear.in * element;
  }
  return weights;
}

// A tile of dequantised weights, and its product before it stands in its place: of the MLP's first layer, the largest.
std::int64_t nf4_working_bytes(const ModelConfig& c, std::int64_t tokens, std::int64_t element) {
  const std::int64_t rows = 2 * c.intermediate_size, whole = rows * c.hidden_size * element;
  if (whole <= kNf4TileBytes) return whole;
  const std::int64_t active = std::max<std::int64_t>(1, c.num_experts_per_tok);
  return kNf4TileBytes + active * tokens * std::min(rows, kNf4TileBytes / (c.hidden_size * element)) * element;
}

// The MLP's first layer going backward: its matrix turned over, of one expert, and the gradient in fp8; with experts a
// result before it stands in its place.
std::int64_t fp8_working_bytes(const ModelConfig& c, std::int64_t tokens, std::int64_t element) {
  const std::int64_t rows = tokens * std::max<std::int64_t>(1, c.num_experts_per_tok);
  return 2 * c.intermediate_size * (c.hidden_size + rows) +
         (c.num_local_experts > 0 ? rows * c.hidden_size * element : 0);
}

// Of each trained matrix Adafactor keeps a number a row and a column.
std::int64_t adafactor_values(const Recipe& recipe, const ModelConfig& c) {
  const bool full = !has_adapter(recipe.adapter);
  const std::vector<std::string> targets = full ? std::vector<std::string>{} : adapted_modules(recipe.adapter, c);
  std::int64_t layer = full ? 2 * c.hidden_size : 0;
  for (const LinearKind& linear : linear_kinds(c)) {
    if (full && (linear.name != "gate" || recipe.train.train_router)) layer += linear.count * (linear.out + linear.in);
    if (contains(targets, linear.name))
      layer += linear.count * (linear.out + linear.in + (recipe.adapter.use_dora ? linear.out : 0) +
                               2 * ranks_of(recipe.adapter, c, linear.name) / c.num_hidden_layers);
  }
  const std::int64_t tables = !full ? std::ssize(recipe.adapter.modules_to_save) : c.tie_word_embeddings ? 1 : 2;
  return c.num_hidden_layers * layer + tables * (c.vocab_size + c.hidden_size) + (full ? c.hidden_size : 0);
}

// What a product [m, k] [k, n] of fp16 holds on the CPU, which makes it in fp32: both factors, of the second one a
// block (train/kernels/matmul.cpp), and as much of the result.
std::int64_t through_fp32_bytes(std::int64_t m, std::int64_t k, std::int64_t n) {
  constexpr std::int64_t kBlock = 8 << 20;
  const std::int64_t columns = std::clamp<std::int64_t>(kBlock / std::max<std::int64_t>(1, k), 1, n);
  return (m * k + k * columns + m * columns) * std::int64_t{sizeof(float)};
}

}  // namespace

std::int64_t model_ranks(const Recipe& recipe, std::int64_t ranks) {
  const DistributedOptions& distributed = recipe.distributed;
  if (distributed.strategy != Strategy::shard) return 1;
  return distributed.shard_size > 0 ? std::min(distributed.shard_size, ranks) : ranks;
}

// Adapters are small: every rank has them whole.
std::int64_t state_ranks(const Recipe& recipe, std::int64_t ranks) {
  return has_adapter(recipe.adapter) ? 1 : model_ranks(recipe, ranks);
}

std::int64_t largest_in_layer(const ModelConfig& c) {
  std::int64_t largest = 0;
  for (const LinearKind& linear : linear_kinds(c)) largest = std::max(largest, linear.out * linear.in);
  return largest;
}

std::int64_t optimizer_state_bytes(const Recipe& recipe, const ModelConfig& config) {
  const std::int64_t values = trainable_parameters(config, recipe.adapter, recipe.train.train_router);
  switch (recipe.train.optim) {
    case OptimizerType::adamw:
      return 8 * values;
    case OptimizerType::adamw_8bit:
      return 2 * values + 2 * 4 * (values + kDynamicBlock - 1) / kDynamicBlock;
    case OptimizerType::adafactor:
      return 4 * adafactor_values(recipe, config);
    case OptimizerType::sgd:
      return 0;
  }
  return 0;
}

std::int64_t tape_bytes_per_token(const ModelConfig& c, const AdapterOptions& adapter, std::int64_t element_bytes) {
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const std::int64_t active = std::max<std::int64_t>(1, c.num_experts_per_tok);
  std::int64_t elements = 2 * c.hidden_size + (q + 2 * kv) + q + 2 * active * c.intermediate_size;
  if (has_adapter(adapter)) {
    const std::vector<std::string> targets = adapted_modules(adapter, c);
    for (const LinearKind& linear : linear_kinds(c))
      if (contains(targets, linear.name))
        elements += linear.active * width_of_a_rank(adapter) * ranks_of(adapter, c, linear.name) / c.num_hidden_layers;
  }
  // log-sum-exp, two inverse norms and the router's probabilities and weights in fp32, its choices in int64
  const std::int64_t routing = c.num_local_experts > 0 ? 4 * c.num_local_experts + active * (4 + 3 * 8) : 0;
  return elements * element_bytes + 4 * (c.num_attention_heads + 2) + routing;
}

std::int64_t gradient_bucket_bytes(const Recipe& recipe, const ModelConfig& c) {
  std::int64_t values = 0;
  const auto add = [&](std::int64_t size, std::int64_t count) {
    if (size * std::int64_t{sizeof(float)} < kLargeGradientBytes) values += size * count;
  };
  if (!has_adapter(recipe.adapter)) {
    add(c.hidden_size, 2 * c.num_hidden_layers + 1);  // norms
    for (const LinearKind& linear : linear_kinds(c)) add(linear.out * linear.in, linear.count * c.num_hidden_layers);
    return values * std::int64_t{sizeof(float)};
  }
  add(c.vocab_size * c.hidden_size, std::ssize(recipe.adapter.modules_to_save));
  add(std::ssize(recipe.adapter.trainable_tokens) * c.hidden_size, 1);
  const std::vector<std::string> targets = adapted_modules(recipe.adapter, c);
  for (const LinearKind& linear : linear_kinds(c)) {
    if (!contains(targets, linear.name)) continue;
    for (const std::int64_t side : {linear.in, linear.out})
      add(ranks_of(recipe.adapter, c, linear.name) / c.num_hidden_layers * side, linear.count * c.num_hidden_layers);
  }
  return values * std::int64_t{sizeof(float)};
}

std::vector<MemoryItem> memory_items(const Recipe& recipe, const ModelConfig& c, const Plan& plan) {
  const Dtype dtype = dtype_of(recipe);
  const std::int64_t element = dtype == Dtype::fp32 ? 4 : 2, tokens = plan.micro_batch_tokens,
                     trained = plan.trainable_parameters;
  const bool full = !has_adapter(recipe.adapter);
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const std::int64_t row = element * tokens, hidden = c.hidden_size * row;

  std::vector<MemoryItem> items;
  if (on_cuda(recipe))
    items = {{"CUDA context, about", kCudaContextBytes}, {"cuBLAS", kCublasBytes}};
  else
    items = {{"program", program_bytes()}};
  const std::int64_t ranks = model_ranks(recipe, plan.ranks), of_state = state_ranks(recipe, plan.ranks);
  const bool sharded = ranks > 1;
  const Weights weights = weights_of(c, recipe, element);
  const std::int64_t outside = (plan.parameters - c.num_hidden_layers * weights.layer) * element;
  items.push_back({"base weights", (outside + c.num_hidden_layers * weights.layer_bytes) / ranks +
                                       c.num_hidden_layers * weights.beside_bytes});
  if (full && element != 4 && !recipe.train.bf16_stochastic_round)
    items.push_back({"fp32 masters", trained * 4 / of_state});
  if (!full)
    items.push_back({"adapter and masters", trained * (element == 4 ? 4 : 6) +
                                                (width_of_a_rank(recipe.adapter) - 1) * trained * element +
                                                dense_b_bytes(c, recipe.adapter, element)});
  const bool in_backward = recipe.train.optimizer_in_backward;
  if (!in_backward) items.push_back({"gradients", trained * 4 / of_state});
  const std::int64_t state = optimizer_state_bytes(recipe, c);
  if (!recipe.train.offload_optimizer || !on_cuda(recipe)) items.push_back({"optimizer", state / of_state});
  if (recipe.train.offload_optimizer)
    items.push_back({"optimizer on its way", offload_buffer_bytes(recipe, c, of_state)});

  if (!full && !on_cuda(recipe) && recipe.save.save_steps > 0)  // what is written while training goes on
    items.push_back({"copy for checkpoints", trained * 4 + state});
  if (plan.ranks > 1 && of_state == 1) items.push_back({"gradient buckets", gradient_bucket_bytes(recipe, c)});

  const std::int64_t tape = tape_bytes_per_token(c, recipe.adapter, element) * tokens;
  const bool checkpointing = recipe.train.gradient_checkpointing;
  // Of pairs, attention's own result is there with each prompt twice.
  const std::int64_t copies = std::max<std::int64_t>(0, plan.attended_tokens - tokens),
                     layer_tape = tape + copies * (q * element + 4 * c.num_attention_heads);
  const std::int64_t activations =
      checkpointing ? layer_tape + c.num_hidden_layers * hidden : layer_tape * c.num_hidden_layers;

  // The loss and the backward of a layer take turns: what one frees the other uses.
  const std::int64_t active = std::max<std::int64_t>(1, c.num_experts_per_tok),
                     experts = std::max<std::int64_t>(1, c.num_local_experts);
  std::int64_t loss = logit_rows(recipe, tokens) * c.vocab_size * element + 3 * hidden;
  std::int64_t layer = 4 * hidden + std::max(2 * active * c.intermediate_size * row,
                                             on_cuda(recipe) ? cuda_attention_bytes(recipe, c, tokens, element)
                                                             : (2 * q + 2 * kv) * row);
  if (copies > 0) layer += (2 * (q + 2 * kv) + q) * plan.attended_tokens * element;  // in, gradient out, gradient in
  if (c.num_local_experts > 0) layer += (3 * c.intermediate_size + 2 * c.hidden_size) * active * row;  // rows by expert
  if (recipe.adapter.use_dora) layer += 2 * 2 * c.intermediate_size * row;  // an output once more, and its gradient
  if (recipe.adapter.type == AdapterType::qlora) layer += nf4_working_bytes(c, tokens, element);
  if (recipe.train.precision == Precision::fp8) layer += fp8_working_bytes(c, tokens, element);
  if (full) {
    layer += 2 * experts * c.intermediate_size * c.hidden_size * element;
  }
  if (full || contains(recipe.adapter.modules_to_save, "lm_head")) {
    if (element != 4)
      loss += c.vocab_size * c.hidden_size * (element + (on_cuda(recipe) ? 0 : 4));  // oneDNN sums in fp32
  }
  if (dtype == Dtype::fp16 && !on_cuda(recipe)) {
    const std::int64_t rows = active * tokens, inner = 2 * c.intermediate_size, logits = logit_rows(recipe, tokens);
    layer += std::max(through_fp32_bytes(rows, c.hidden_size, inner),
                      full ? through_fp32_bytes(inner, rows, c.hidden_size) : 0);
    loss += std::max(through_fp32_bytes(logits, c.hidden_size, c.vocab_size),
                     full ? through_fp32_bytes(c.vocab_size, logits, c.hidden_size) : 0);
  }
  // Of a sharded model: what is gathered at the loss, where the last layer waits for its backward pass, and while that
  // layer goes backward: the next one is on its way in, the head's gradients are on their way out.
  std::int64_t at_loss = 0, at_layer = 0;
  if (sharded) {
    const bool all = !recipe.distributed.reshard_after_forward;
    const std::int64_t gradient = full ? 4 : 0, layers = all ? c.num_hidden_layers : 1;
    at_loss = layers * weights.layer_bytes + weights.last * (element + gradient);
    at_layer =
        (all ? layers : 2) * weights.layer_bytes + (weights.layer + std::max(weights.layer, weights.last)) * gradient;
    if (!on_cuda(recipe)) at_layer += std::max(weights.layer, weights.last) * gradient;  // others' versions of it
  }
  if (in_backward) {  // gradients of one unit at a time, of tied tables all the while
    at_loss = 4 * weights.last;
    at_layer = 4 * (weights.layer + (c.tie_word_embeddings ? weights.last : 0));
    if (recipe.train.bf16_stochastic_round) {
      loss = std::max(loss, 4 * c.vocab_size * c.hidden_size);
      layer = std::max(layer, 4 * largest_in_layer(c));
    }
    items.push_back({"gradients", std::max(at_loss, at_layer)});
  }
  const std::int64_t working = std::max(loss + at_loss, layer + at_layer) - std::max(at_loss, at_layer);
  if (sharded) items.push_back({"gathered layers", std::max(at_loss, at_layer)});
  const std::int64_t evaluation =
      plan.evaluation_tokens > 0 ? evaluation_bytes(recipe, c, plan.evaluation_tokens, element) : 0;
  if (evaluation > activations + working) {
    items.push_back({"evaluation", evaluation});
  } else {
    items.push_back({"activations", activations});
    items.push_back({"working space", working});
  }
  return items;
}

}  // namespace tune
