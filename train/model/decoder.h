#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/weights.h"
#include "data/batch.h"
#include "recipes/schema/recipe.h"
#include "train/model/parameter.h"

namespace tune {

class InputStatistics;
class WeightKeeper;

struct DecoderOptions {
  Dtype dtype = Dtype::bf16;                      // of weights and activations
  std::string device = "cpu";                     // as at::Device reads it
  bool fp8_base = false;                          // frozen linear layers in fp8 (train/kernels/fp8.h); dtype is bf16
  AdapterOptions adapter;                         // type none: every weight is trained
  std::vector<std::int32_t> trainable_token_ids;  // beside an adapter: of adapter.trainable_tokens
  bool training = true;                           // false: no gradient buffers, nothing is trained
  bool adapter_is_restored = false;  // by the caller, from a checkpoint: PiSSA needn't find where it begins
  bool gradient_checkpointing = false;
  bool train_router = false;           // full fine-tuning: the routers' weights, too
  bool bf16_stochastic_round = false;  // full fine-tuning: no fp32 masters
  double neftune_noise_alpha = 0.0;    // of the noise that set_step() turns on with the dropout; 0 = none
  double router_aux_loss_coef = 0.0;   // weight of the auxiliary loss beside the loss a token
  bool reshard_after_forward = true;   // with a keeper: false keeps what forward() took until backward() has used it
  std::int64_t seed = 42;              // of the adapter's initial values and dropout
};

/// Keys and values of one growing sequence, a tensor [tokens, 2 * kv_heads * head_dim] a layer.
struct KeyValueCache {
  std::vector<at::Tensor> layers;
  std::int64_t tokens = 0;
};

/// How evenly the routers of all layers spread the tokens of one micro-batch.
struct RouterLoad {
  /// experts * sum over experts of (share of assignments * k) * (mean probability): k where all is even. Over all
  /// layers and tokens, as transformers computes it (Fedus et al. 2021, equations 4 to 6).
  double aux_loss = 0;
  std::vector<double> expert_share;  // [experts], sums to one
};

/// The Llama family: pre-norm blocks of grouped-query attention and SwiGLU, one or several of which a router
/// chooses. Forward and backward are written out by
/// hand, layer by layer: the tape is the list of saved tensors, nothing else is kept. One thread at a time.
class Decoder {
 public:
  /// Reads every weight named by `config` from `weights` straight into place. The weights have been checked
  /// (check_tensors); Error{Fault::data} names a tensor that holds NaN or infinity, or an adapter that does not fit.
  /// With a keeper, it has the weights (not the adapter's), and each pass takes them, or their gradients, a layer at a
  /// time.
  Decoder(const ModelConfig& config, const WeightSource& weights, const DecoderOptions& options);
  Decoder(const ModelConfig& config, const WeightSource& weights, const DecoderOptions& options,
          std::unique_ptr<WeightKeeper> keeper);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  const ModelConfig& config() const;
  const DecoderOptions& options() const;
  bool has_keeper() const;            // one that shares the weights with other ranks: all must make the same passes
  bool trains_slices() const;         // trained() are such a keeper's: parts of tensors, other ranks have the rest
  std::vector<Parameter>& trained();  // in a fixed order

  /// False: the base model's own output (evaluation before tuning, merge checks).
  void set_adapter_enabled(bool enabled);

  /// Hidden states after the final norm, [tokens, hidden]. With keep, saves what backward() needs.
  at::Tensor forward(const PackedBatch& batch, bool keep);

  /// Every forward() adds to `statistics`, which must outlive it, what its linear layers are given; null ends that.
  void collect_inputs(InputStatistics* statistics);

  /// d_hidden [rows, hidden]: gradient for the rows `row_index` [rows] int64 of the last forward's result, of which one
  /// may be named twice; all other rows have none. Adds to the gradients of trained(), then forgets what was kept.
  /// aux_weight: of the auxiliary loss of that forward pass, whose gradient is added; without experts it means nothing.
  void backward(const at::Tensor& d_hidden, const at::Tensor& row_index, double aux_weight = 0);

  /// `ready(first)` is called in the course of a backward(), with falling numbers down to 0: the gradients of trained()
  /// from `first` on are complete, and this pass doesn't read their values any more. Null ends that.
  void on_gradients(std::function<void(std::size_t first)> ready);

  /// Waits until the gradients of trained() hold everything that backward() was called for; a keeper may be late.
  void finish_gradients();

  /// Of the last forward(); nothing for a model without experts.
  std::optional<RouterLoad> router_load() const;

  /// Runs the forward pass once more and names the first module whose output overflows, as Layer::first_overflow does;
  /// "" where none before lm_head does. For reports: slow, and not with a keeper.
  std::string first_overflow(const PackedBatch& batch);

  /// lm_head [vocab, hidden] as the adapter has it and, where it is trained, its fp32 gradient (else undefined). With a
  /// keeper it is there from the end of a forward pass to the beginning of the next pass, backward or forward.
  const at::Tensor& head_weight() const;
  at::Tensor head_gradient();

  /// Dropout's and noise's counter: those of micro-batch n of step s are a function of (seed, s, n). Evaluation:
  /// no_dropout(), which turns both off.
  void set_step(std::int64_t step, std::int64_t micro_batch);
  void no_dropout();

  /// Generation. Hidden states after the final norm of the ids that follow what `cache` holds; the cache grows by them.
  /// More than one id at a time only into an empty cache.
  at::Tensor forward_cached(const std::vector<std::int32_t>& ids, KeyValueCache& cache);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace tune
