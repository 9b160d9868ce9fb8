#include "train/model/input_statistics.h"

#include <ATen/ATen.h>

#include "train/model/linear.h"

namespace tune {

void InputStatistics::add(const LinearGroup& group, const at::Tensor& x, const RowGroups& groups) {
  const std::int64_t experts = groups.count();
  Sums& sums = sums_[&group];
  if (!sums.squares.defined()) {
    sums.squares = at::zeros({experts, x.size(1)}, at::kDouble);
    sums.tokens.resize(static_cast<std::size_t>(experts));
  }
  const at::Tensor ends = groups.ends.defined() ? groups.ends.cpu() : at::tensor({x.size(0)}, at::kInt);
  const auto* end = ends.const_data_ptr<std::int32_t>();
  for (std::int64_t expert = 0, first = 0; expert < experts; first = end[expert++]) {
    const std::int64_t rows = end[expert] - first;
    sums.squares.select(0, expert).add_(x.narrow(0, first, rows).to(at::kFloat).square().sum(0).cpu());
    sums.tokens[static_cast<std::size_t>(expert)] += rows;
  }
}

std::map<std::string, InputStatistics::Columns> InputStatistics::by_module() const {
  std::map<std::string, Columns> columns;
  for (const auto& [group, sums] : sums_) {
    const std::size_t modules_of_expert = group->modules().size() / sums.tokens.size();
    const at::Tensor squares = sums.squares.to(at::kFloat);
    for (std::size_t i = 0; i < group->modules().size(); ++i) {
      const std::size_t expert = i / modules_of_expert;
      const float* first = squares[static_cast<std::int64_t>(expert)].const_data_ptr<float>();
      columns[group->modules()[i].name] = {{first, first + squares.size(1)}, sums.tokens[expert]};
    }
  }
  return columns;
}

}  // namespace tune
