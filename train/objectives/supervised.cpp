#include "train/objectives/supervised.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <cmath>

#include "train/kernels/cross_entropy.h"
#include "train/kernels/matmul.h"
#include "train/kernels/upload.h"

namespace tune {

bool backward_follows(const Decoder& decoder, double loss) { return std::isfinite(loss) || decoder.has_keeper(); }

Loss supervised_loss(Decoder& decoder, const PackedBatch& batch, double scale, bool backward) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::vector<std::int64_t> rows, labels;
  for (std::size_t i = 0; i < batch.labels.size(); ++i) {
    if (batch.labels[i] == kNoLabel) continue;
    rows.push_back(static_cast<std::int64_t>(i));
    labels.push_back(batch.labels[i]);
  }
  // Without a label there is nothing to compute, but where the ranks keep the weights together all of them have to
  // pass.
  if (rows.empty() && !decoder.has_keeper()) return {};

  at::Tensor hidden = decoder.forward(batch, backward);
  const at::Tensor row_index = upload(rows, hidden.device()), label_tensor = upload(labels, hidden.device());
  hidden = hidden.index_select(0, row_index);
  if (rows.empty()) {
    if (backward) decoder.backward(hidden, row_index);
    return {};
  }

  const CrossEntropyResult result = linear_cross_entropy(hidden, decoder.head_weight(), label_tensor, scale, backward,
                                                         backward ? decoder.head_gradient() : at::Tensor());
  const auto trained = static_cast<std::int64_t>(rows.size());
  if (backward && backward_follows(decoder, result.loss_sum))
    decoder.backward(result.d_hidden, row_index,
                     decoder.options().router_aux_loss_coef * scale * static_cast<double>(trained));
  return {result.loss_sum, trained, std::nullopt, decoder.router_load()};
}

at::Tensor logits(Decoder& decoder, const PackedBatch& batch, const std::vector<std::int64_t>& rows) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const at::Tensor hidden = decoder.forward(batch, false);
  return matmul_nt(hidden.index_select(0, upload(rows, hidden.device())), decoder.head_weight()).to(at::kFloat);
}

}  // namespace tune
