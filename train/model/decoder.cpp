#include "train/model/decoder.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "recipes/schema/error.h"
#include "train/kernels/rms_norm.h"
#include "train/kernels/upload.h"
#include "train/model/dtype.h"
#include "train/model/layer.h"
#include "train/model/load.h"
#include "train/model/overflow.h"
#include "train/model/random_stream.h"
#include "train/model/weight_keeper.h"
#include "train/plan/plan.h"

namespace tune {

struct Decoder::Parts {
  ModelConfig config;
  DecoderOptions options;
  at::Tensor embedding, head, final_norm;  // head is embedding where they are tied
  at::Tensor embedding_master, head_master, final_norm_master;
  at::Tensor embedding_gradient, head_gradient, final_norm_gradient;
  // Beside an adapter: copies that are trained (modules_to_save), and rows that stand in for the embedding's own
  // (trainable_tokens). What they are copies of stays, for passes without the adapter.
  at::Tensor trained_embedding, trained_head;
  at::Tensor token_rows, token_rows_master, token_gradient;  // [tokens, hidden]
  at::Tensor row_of_token;                                   // [vocab] int64, -1 = the embedding's own
  std::vector<std::unique_ptr<Layer>> layers;
  std::vector<Parameter> trained;
  std::vector<std::size_t> first_trained;  // of each layer; then of what follows the layers
  std::function<void(std::size_t)> gradients_ready;
  RopeTable rope;
  bool adapter_on = true;
  bool dropout_on = false;
  std::int64_t step = 0, micro_batch = 0;

  // What backward() needs of the last forward(batch, keep).
  Sequence sequence;
  at::Tensor ids;
  std::vector<LayerTape> tapes;  // with gradient checkpointing only the inputs are filled
  at::Tensor last_hidden, last_inv_rms;
  RouterStatistics router_statistics;
  InputStatistics* input_statistics = nullptr;

  // Units: the embedding, the layers, the final norm with the head; tied, the first and the last are one.
  std::unique_ptr<WeightKeeper> keeper;  // null: all weights are here
  bool trains_slices() const { return keeper && options.training && !has_adapter(options.adapter); }
  std::size_t tail() const { return config.tie_word_embeddings ? 0 : layers.size() + 1; }
  void take(std::size_t unit, std::optional<std::size_t> next = std::nullopt) {
    if (keeper) keeper->take(unit, next);
  }
  void leave(std::size_t unit) {
    if (keeper) keeper->leave(unit);
  }
  bool tail_taken = false;
  void leave_tail() {
    if (std::exchange(tail_taken, false)) leave(tail());
  }
  // The embedded ids through all layers: x = pass(layer, x). The tail is there afterwards, and with `keep` the last
  // layer, with which the backward pass begins.
  template <typename Pass>
  at::Tensor through_layers(const at::Tensor& ids, bool keep, Pass&& pass);
  Sequence make_sequence(const std::vector<std::int32_t>& positions, std::vector<std::int32_t> document_starts);
  Sequence make_sequence(const PackedBatch& batch);
  void collect_trained();
  void add_trained(const char* name, at::Tensor& value, at::Tensor& master, at::Tensor& gradient, bool decays = true);
  void copy_whole_modules();
  at::Tensor embedded(const at::Tensor& ids) const;
  void add_embedding_gradients(const at::Tensor& d_x);
  void start_adapters();
  std::vector<WeightSlot> make_weights(const WeightSource& weights);
};

namespace {

at::Tensor on_device(const std::vector<std::int32_t>& values, const DecoderOptions& options) {
  return upload(values, at::Device(options.device));
}

// On CUDA index_add_ adds with atomics, whose order changes from run to run; index_put_ sorts first and takes longer.
void add_rows_(at::Tensor& sums, const at::Tensor& ids, const at::Tensor& rows) {
  if (sums.is_cuda() && at::globalContext().deterministicAlgorithms())
    sums.index_put_({ids}, rows, /*accumulate=*/true);
  else
    sums.index_add_(0, ids, rows);
}

constexpr std::uint64_t kNoise = 0x6E6F697365;  // keeps NEFTune's stream apart from dropout's

// One well-mixed number from three small ones (splitmix64's finalizer).
std::uint64_t mixed(std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  std::uint64_t z = a * 0x9E3779B97F4A7C15ull + b * 0xBF58476D1CE4E5B9ull + c * 0x94D049BB133111EBull + 1;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

}  // namespace

Sequence Decoder::Parts::make_sequence(const std::vector<std::int32_t>& positions,
                                       std::vector<std::int32_t> document_starts) {
  std::int32_t longest = 0;
  for (const std::int32_t position : positions) longest = std::max(longest, position + 1);
  if (!rope.cosine.defined() || rope.cosine.size(0) < longest) {
    const std::int64_t room = std::max<std::int64_t>(longest, 2 * (rope.cosine.defined() ? rope.cosine.size(0) : 256));
    rope = make_rope_table(room, config.head_dim, config.rope_theta, at::Device(options.device));
  }
  return {.positions = on_device(positions, options),
          .document_starts = std::move(document_starts),
          .rope = rope,
          .adapter = adapter_on ? AdapterUse::on : AdapterUse::off,
          .dropout = dropout_on ? options.adapter.lora_dropout : 0.0,
          .dropout_seed = mixed(static_cast<std::uint64_t>(options.seed), static_cast<std::uint64_t>(step),
                                static_cast<std::uint64_t>(micro_batch))};
}

Sequence Decoder::Parts::make_sequence(const PackedBatch& batch) {
  Sequence sequence = make_sequence(batch.positions, batch.document_starts);
  if (batch.pairs.empty()) return sequence;
  std::vector<std::int64_t> attended, kept(batch.ids.size());
  sequence.attended_starts = {0};
  const auto lay = [&](std::int32_t begin, std::int32_t end, bool keep) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (keep) kept[static_cast<std::size_t>(i)] = std::ssize(attended);
      attended.push_back(i);
    }
  };
  for (const PreferencePair& pair : batch.pairs) {
    lay(pair.start, pair.rejected, true);
    sequence.attended_starts.push_back(static_cast<std::int32_t>(attended.size()));
    lay(pair.start, pair.chosen, false);
    lay(pair.rejected, pair.end, true);
    sequence.attended_starts.push_back(static_cast<std::int32_t>(attended.size()));
  }
  sequence.attended_rows = upload(attended, at::Device(options.device));
  sequence.kept_rows = upload(kept, at::Device(options.device));
  return sequence;
}

void Decoder::Parts::add_trained(const char* name, at::Tensor& value, at::Tensor& master, at::Tensor& gradient,
                                 bool decays) {
  master = value.scalar_type() == at::kFloat ? value : value.to(at::kFloat);
  if (options.training) gradient = at::zeros_like(master);
  trained.push_back({.name = name, .value = value, .master = master, .gradient = gradient, .decays = decays});
}

void Decoder::Parts::copy_whole_modules() {
  const std::vector<std::string>& whole = options.adapter.modules_to_save;
  const auto saves = [&](const char* name) { return std::find(whole.begin(), whole.end(), name) != whole.end(); };
  take(0);
  if (saves("embed_tokens")) trained_embedding = embedding.clone();
  if (const std::vector<std::int32_t>& ids = options.trainable_token_ids; !ids.empty()) {
    const at::Tensor rows = on_device(ids, options).to(at::kLong);
    token_rows = embedding.index_select(0, rows);
    row_of_token = at::full({config.vocab_size}, -1, rows.options());
    row_of_token.index_copy_(0, rows, at::arange(rows.size(0), rows.options()));
  }
  leave(0);
  if (!saves("lm_head")) return;
  take(tail());
  trained_head = head.clone();
  leave(tail());
}

void Decoder::Parts::collect_trained() {
  const bool full = !has_adapter(options.adapter);
  if (full) add_trained("model.embed_tokens.weight", embedding, embedding_master, embedding_gradient);
  if (!full) copy_whole_modules();
  if (trained_embedding.defined())
    add_trained("base_model.model.model.embed_tokens.weight", trained_embedding, embedding_master, embedding_gradient);
  if (token_rows.defined())
    add_trained("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", token_rows,
                token_rows_master, token_gradient);
  for (auto& layer : layers) {
    first_trained.push_back(trained.size());
    if (full) layer->train_weights(options.train_router, false);
    layer->append_parameters(trained);
  }
  first_trained.push_back(trained.size());
  if (trained_head.defined()) add_trained("base_model.model.lm_head.weight", trained_head, head_master, head_gradient);
  if (!full) return;
  add_trained("model.norm.weight", final_norm, final_norm_master, final_norm_gradient, false);
  if (config.tie_word_embeddings)
    head_gradient = embedding_gradient;
  else
    add_trained("lm_head.weight", head, head_master, head_gradient);
}

at::Tensor Decoder::Parts::embedded(const at::Tensor& wanted) const {
  at::Tensor x = (adapter_on && trained_embedding.defined() ? trained_embedding : embedding).index_select(0, wanted);
  if (!adapter_on || !token_rows.defined()) return x;
  const at::Tensor rows = row_of_token.index_select(0, wanted), places = rows.ge(0).nonzero().flatten();
  return x.index_copy_(0, places, token_rows.index_select(0, rows.index_select(0, places)));
}

void Decoder::Parts::add_embedding_gradients(const at::Tensor& d_x) {
  if (embedding_gradient.defined()) add_rows_(embedding_gradient, ids, d_x.to(at::kFloat));
  if (!token_gradient.defined()) return;
  const at::Tensor rows = row_of_token.index_select(0, ids), places = rows.ge(0).nonzero().flatten();
  add_rows_(token_gradient, rows.index_select(0, places), d_x.index_select(0, places).to(at::kFloat));
}

// What adapters take from the weights that they are put on.
void Decoder::Parts::start_adapters() {
  if (!options.adapter.use_dora && options.adapter.init_lora_weights == LoraInit::standard) return;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    take(i + 1);
    for (LinearGroup* group : layers[i]->groups()) group->start_adapter(options);
    leave(i + 1);
  }
}

// Makes the weights, unit by unit. Without a keeper they are still to be filled: the slots say with what.
std::vector<WeightSlot> Decoder::Parts::make_weights(const WeightSource& weights) {
  std::vector<WeightSlot> all;
  const bool kept_gradients = trains_slices();
  const auto add = [&](const WeightUnit& unit) {
    if (!keeper) {
      all.insert(all.end(), unit.slots.begin(), unit.slots.end());
      return;
    }
    const std::vector<Parameter> slices = keeper->add(unit, weights);
    trained.insert(trained.end(), slices.begin(), slices.end());
  };
  WeightUnit first, last;
  const auto into = [&](WeightUnit& unit, const char* name, at::Tensor& tensor, at::Tensor& gradient,
                        at::IntArrayRef shape) {
    tensor = at::empty(shape, tensor_options(options));
    if (kept_gradients) gradient = at::empty({0}, tensor.options().dtype(at::kFloat));
    unit.weights.push_back(tensor);
    unit.gradients.push_back(gradient);
    unit.slots.push_back({name, tensor, {}});
  };
  into(first, "model.embed_tokens.weight", embedding, embedding_gradient, {config.vocab_size, config.hidden_size});
  if (config.tie_word_embeddings)
    into(first, "model.norm.weight", final_norm, final_norm_gradient, {config.hidden_size});
  add(first);
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers.push_back(std::make_unique<Layer>(config, i, options));
    Layer& layer = *layers.back();
    const std::string prefix = fmt::format("model.layers.{}.", i);
    if (kept_gradients) layer.train_weights(options.train_router, true);
    WeightUnit unit;
    std::vector<WeightSlot> slots = {{prefix + "input_layernorm.weight", layer.input_norm, {}},
                                     {prefix + "post_attention_layernorm.weight", layer.post_attention_norm, {}}};
    for (LinearGroup* group : layer.groups()) group->append_slots(slots);
    // A unit is of one dtype: of a layer in NF4 the norms and the router, which are small, stay outside.
    const at::ScalarType dtype = layer.groups().front()->weight().scalar_type();
    for (WeightSlot& slot : slots) (slot.destination.scalar_type() == dtype ? unit.slots : all).push_back(slot);
    for (const auto& [weight, gradient] : layer.weights_and_gradients()) {
      if (weight.scalar_type() != dtype) continue;
      unit.weights.push_back(weight);
      unit.gradients.push_back(gradient);
    }
    add(unit);
  }
  if (config.tie_word_embeddings) {
    head = embedding;
    head_gradient = embedding_gradient;
    return all;
  }
  into(last, "model.norm.weight", final_norm, final_norm_gradient, {config.hidden_size});
  into(last, "lm_head.weight", head, head_gradient, {config.vocab_size, config.hidden_size});
  add(last);
  return all;
}

Decoder::Decoder(const ModelConfig& config, const WeightSource& weights, const DecoderOptions& options)
    : Decoder(config, weights, options, nullptr) {}

Decoder::Decoder(const ModelConfig& config, const WeightSource& weights, const DecoderOptions& options,
                 std::unique_ptr<WeightKeeper> keeper)
    : parts_(std::make_unique<Parts>()) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Parts& p = *parts_;
  p.config = config;
  p.options = options;
  p.keeper = std::move(keeper);
  const bool adapted = has_adapter(options.adapter);
  load_weights(weights, p.make_weights(weights));
  if (p.trains_slices())
    p.first_trained.assign(p.layers.size() + 1, 0);
  else if (options.training || adapted)
    p.collect_trained();
  if (adapted) p.start_adapters();
  if (adapted && !options.adapter.init_adapter.empty()) load_adapter(options.adapter, p.trained);
}

Decoder::~Decoder() = default;

const ModelConfig& Decoder::config() const { return parts_->config; }
const DecoderOptions& Decoder::options() const { return parts_->options; }
bool Decoder::has_keeper() const { return parts_->keeper != nullptr; }
bool Decoder::trains_slices() const { return parts_->trains_slices(); }
std::vector<Parameter>& Decoder::trained() { return parts_->trained; }
void Decoder::set_adapter_enabled(bool enabled) { parts_->adapter_on = enabled; }
const at::Tensor& Decoder::head_weight() const {
  return parts_->adapter_on && parts_->trained_head.defined() ? parts_->trained_head : parts_->head;
}
at::Tensor Decoder::head_gradient() { return parts_->head_gradient; }

void Decoder::set_step(std::int64_t step, std::int64_t micro_batch) {
  parts_->step = step;
  parts_->micro_batch = micro_batch;
  parts_->dropout_on = true;
}

void Decoder::no_dropout() { parts_->dropout_on = false; }

template <typename Pass>
at::Tensor Decoder::Parts::through_layers(const at::Tensor& input, bool keep, Pass&& pass) {
  if (tail() != 0) leave_tail();
  take(0, 1);
  at::Tensor x = embedded(input);
  if (dropout_on && options.neftune_noise_alpha > 0)
    add_neftune_noise_(x, sequence.document_starts, options.neftune_noise_alpha,
                       mixed(kNoise, sequence.dropout_seed, 0));
  if (tail() != 0) leave(0);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const bool last = i + 1 == layers.size();
    take(i + 1, last && tail() == 0 ? std::nullopt : std::optional(i + 2));
    x = pass(i, x);
    if (!keep || !(last || !options.reshard_after_forward)) leave(i + 1);
  }
  take(tail());
  tail_taken = true;
  if (keep && keeper) keeper->take_gradients(tail());
  return x;
}

at::Tensor Decoder::forward(const PackedBatch& batch, bool keep) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Parts& p = *parts_;
  p.tapes.clear();
  p.sequence = p.make_sequence(batch);
  p.ids = on_device(batch.ids, p.options);
  if (keep) p.tapes.resize(p.layers.size());
  p.router_statistics = {};
  p.sequence.router_statistics = &p.router_statistics;
  p.sequence.input_statistics = p.input_statistics;
  const bool checkpointing = p.options.gradient_checkpointing;
  const at::Tensor x = p.through_layers(p.ids, keep, [&](std::size_t i, const at::Tensor& input) {
    if (keep && checkpointing) p.tapes[i].input = input;
    return p.layers[i]->forward(input, p.sequence, keep && !checkpointing ? &p.tapes[i] : nullptr);
  });
  RmsNormResult result = rms_norm(x, p.final_norm, p.config.rms_norm_eps);
  if (keep) {
    p.last_hidden = x;
    p.last_inv_rms = result.inv_rms;
  }
  return result.y;
}

void Decoder::on_gradients(std::function<void(std::size_t)> ready) { parts_->gradients_ready = std::move(ready); }

void Decoder::finish_gradients() {
  if (parts_->keeper) parts_->keeper->finish_gradients();
}

void Decoder::collect_inputs(InputStatistics* statistics) { parts_->input_statistics = statistics; }

std::optional<RouterLoad> Decoder::router_load() const {
  const RouterStatistics& all = parts_->router_statistics;
  if (!all.assigned.defined()) return std::nullopt;
  const auto rows = static_cast<double>(all.rows);
  const at::Tensor share = (all.assigned / all.assigned.sum()).to(at::kDouble).cpu().contiguous();
  const double* first = share.const_data_ptr<double>();
  return RouterLoad{(all.assigned / rows * (all.probabilities / rows)).sum().item<double>() *
                        static_cast<double>(parts_->config.num_local_experts),
                    {first, first + share.size(0)}};
}

void Decoder::backward(const at::Tensor& d_hidden, const at::Tensor& row_index, double aux_weight) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Parts& p = *parts_;
  TUNE_CHECK(p.tapes.size() == p.layers.size(), "backward without a forward that kept its tape");
  p.sequence.router_statistics = nullptr;
  p.sequence.input_statistics = nullptr;
  if (const RouterStatistics& all = p.router_statistics; aux_weight != 0 && all.assigned.defined()) {
    const auto rows = static_cast<double>(all.rows);
    p.sequence.d_router_probabilities =
        all.assigned * (aux_weight * static_cast<double>(p.config.num_local_experts) / (rows * rows));
  }
  at::Tensor d_x = at::zeros_like(p.last_hidden);
  {
    at::Tensor d_normed = at::zeros_like(p.last_hidden);
    d_normed.index_add_(0, row_index, d_hidden);
    rms_norm_backward_add_(d_x, d_normed, p.last_hidden, p.final_norm, p.last_inv_rms, p.final_norm_gradient);
    p.last_hidden = p.last_inv_rms = at::Tensor();
  }
  const bool tied = p.tail() == 0;
  const auto pass_on = [&](std::size_t unit) {
    if (p.keeper) p.keeper->pass_on_gradients(unit);
  };
  if (!tied) {
    p.leave_tail();
    pass_on(p.tail());
  }
  const auto ready = [&](std::size_t layer) {
    if (p.gradients_ready) p.gradients_ready(p.first_trained[layer]);
  };
  ready(p.layers.size());
  const bool embedding_trained = p.embedding_gradient.defined() || p.token_gradient.defined();
  for (std::size_t i = p.layers.size(); i-- > 0;) {
    LayerTape& tape = p.tapes[i];
    p.take(i + 1, i > 0 ? std::optional(i) : std::nullopt);
    if (p.keeper) p.keeper->take_gradients(i + 1);
    if (p.options.gradient_checkpointing) {
      const at::Tensor input = tape.input;
      p.layers[i]->forward(input, p.sequence, &tape);
    }
    d_x = p.layers[i]->backward(d_x, p.sequence, tape, i > 0 || embedding_trained);
    p.leave(i + 1);
    pass_on(i + 1);
    ready(i);
  }
  if (embedding_trained) {
    if (p.keeper && !tied) p.keeper->take_gradients(0);
    p.add_embedding_gradients(d_x);
    pass_on(0);
  }
  if (tied) p.leave_tail();  // the optimizer changes what was gathered
  p.tapes.clear();
}

at::Tensor Decoder::forward_cached(const std::vector<std::int32_t>& ids, KeyValueCache& cache) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Parts& p = *parts_;
  const auto count = static_cast<std::int32_t>(ids.size());
  TUNE_CHECK(cache.tokens == 0 || count == 1, "{} ids into a cache of {}", count, cache.tokens);
  std::vector<std::int32_t> positions(ids.size());
  for (std::int32_t i = 0; i < count; ++i)
    positions[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(cache.tokens) + i;
  no_dropout();
  Sequence sequence = p.make_sequence(positions, {0, count});
  if (cache.tokens > 0 && p.adapter_on) sequence.adapter = AdapterUse::unchanged;
  cache.layers.resize(p.layers.size());
  const at::Tensor x = p.through_layers(on_device(ids, p.options), false, [&](std::size_t i, const at::Tensor& input) {
    return p.layers[i]->forward_cached(input, sequence, cache.layers[i]);
  });
  cache.tokens += count;
  return rms_norm(x, p.final_norm, p.config.rms_norm_eps).y;
}

std::string Decoder::first_overflow(const PackedBatch& batch) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Parts& p = *parts_;
  const Sequence sequence = p.make_sequence(batch);
  at::Tensor x = p.embedded(on_device(batch.ids, p.options));
  std::string found = overflow_of("model.embed_tokens", x);
  for (std::size_t i = 0; found.empty() && i < p.layers.size(); ++i) {
    LayerTape tape;
    x = p.layers[i]->forward(x, sequence, &tape);
    found = p.layers[i]->first_overflow(tape, x);
  }
  return found.empty() ? overflow_of("model.norm", rms_norm(x, p.final_norm, p.config.rms_norm_eps).y) : found;
}

}  // namespace tune
