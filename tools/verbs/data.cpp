#include <fmt/color.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/dataset.h"
#include "data/templates/own_template.h"
#include "recipes/schema/error.h"
#include "recipes/schema/suggest.h"
#include "recipes/schema/tell.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/recipe_argument.h"
#include "tools/verbs/stages.h"
#include "tools/verbs/verbs.h"
#include "train/inputs.h"

namespace tune {
namespace {

namespace po = boost::program_options;

struct Tokenised {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<TokenDataset> rows;
};

// counts are filled even where rows are refused and an error says which.
Tokenised tokenised(const Recipe& recipe, bool evaluation, AuditCounts& counts) {
  const std::vector<DatasetOptions>& which = evaluation ? recipe.data.eval_datasets : recipe.data.datasets;
  if (evaluation && which.empty())
    throw Error{Fault::recipe, {recipe.file}, "the recipe has no data.eval_datasets", "leave --eval off, or add one"};
  Tokenised result{open_tokenizer(recipe.model.base_model), nullptr};
  const ChatTemplate& chat_template = find_template(recipe.data.chat_template, *result.tokenizer);
  for (const std::string& warning : template_warnings(chat_template, *result.tokenizer, recipe.stage, which))
    tell("warning: {}\n", warning);
  result.rows = tokenize(recipe.data, which, evaluation, *result.tokenizer, chat_template, recipe.stage,
                         recipe.train.seed, token_cache_of(recipe), &counts);
  return result;
}

// ---- show

void print_rows_json(const TokenDataset& rows, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const RowView row = rows.row(i);
    const Place place = rows.place(i);
    std::vector<int> trained;
    for (const std::uint8_t mark : row.trained) trained.push_back(is_trained(mark) ? 1 : 0);
    nlohmann::ordered_json json = {{"file", place.file}, {"line", place.line}, {"ids", row.ids}, {"trained", trained}};
    if (row.is_pair()) {  // where the answers begin
      const auto [first, second] = answer_starts(row);
      json[row.is_single() ? "completion" : "chosen"] = first;
      json[row.is_single() ? "mismatched" : "rejected"] = second;
      if (row.is_single()) json["label"] = (row.trained[first] & kChosen) != 0;
    }
    fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}

// Why a token is trained or not, as far as the recipe decides it.
struct Reasons {
  std::string trained, masked;
};

Reasons reasons_of(const Recipe& recipe) {
  if (recipe.stage == Stage::pretrain) return {"everything is (stage: pretrain)", ""};
  if (recipe.stage == Stage::dpo) return {"an answer (stage: dpo)", "prompt or format (stage: dpo)"};
  switch (recipe.data.train_on) {
    case TrainOn::assistant:
      return {"an answer (train_on: assistant)", "prompt or format (train_on: assistant)"};
    case TrainOn::last:
      return {"the last answer (train_on: last)", "not the last answer (train_on: last)"};
    case TrainOn::all:
      return {"everything is (train_on: all)", ""};
  }
  return {};
}

// A token's text with line ends and the like made visible.
std::string visible(const std::string& piece) {
  const std::string quoted = nlohmann::json(piece).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return quoted.substr(1, quoted.size() - 2);
}

// A run of tokens that are all trained or all masked: a line with the reason, then the tokens with their ids.
void print_run(const RowView& row, std::size_t begin, std::size_t end, const Tokenizer& tokenizer,
               const Reasons& reasons) {
  const bool trained = is_trained(row.trained[begin]);
  const auto is = [&](std::uint8_t answer) { return (row.trained[begin] & answer) != 0; };
  const char* answer = is(kChosen)     ? (row.is_single() ? "good, " : "chosen, ")
                       : is(kRejected) ? (row.is_single() ? "bad, " : "rejected, ")
                                       : "";
  const std::string reason = is(kMismatched) ? "another row's answer, looked at only (loss_type: kto)"
                             : trained       ? reasons.trained
                                             : reasons.masked;
  const bool coloured = isatty(STDOUT_FILENO) == 1;
  std::string tokens;
  for (std::size_t i = begin; i < end; ++i)
    tokens += fmt::format(" {}({})", visible(tokenizer.token_text(row.ids[i])), row.ids[i]);
  fmt::print("  {} {}-{}: {}{}\n", trained ? "trained" : "masked ", begin, end - 1, answer, reason);
  if (coloured)
    fmt::print("   {}\n", fmt::styled(tokens, trained ? fmt::fg(fmt::terminal_color::green) : fmt::emphasis::faint));
  else
    fmt::print("   {}\n", tokens);
}

void print_rows(const Tokenised& data, std::int64_t count, const Reasons& reasons) {
  for (std::int64_t i = 0; i < count; ++i) {
    const RowView row = data.rows->row(i);
    const auto trained = std::count_if(row.trained.begin(), row.trained.end(), is_trained);
    fmt::print("{}: {} tokens, {} trained\n", to_string(data.rows->place(i)), row.ids.size(), trained);
    for (std::size_t begin = 0; begin < row.ids.size();) {
      std::size_t end = begin;
      while (end < row.ids.size() && row.trained[end] == row.trained[begin]) ++end;
      print_run(row, begin, end, *data.tokenizer, reasons);
      begin = end;
    }
    fmt::print("\n");
  }
}

// ---- stats

void print_counts(const SourceCounts& counts) {
  fmt::print("{}\n", counts.file);
  fmt::print("  rows       {:>10}   kept {}, dropped {} (too long {}, nothing trained {}), refused besides {}\n",
             counts.rows, counts.kept, counts.dropped_too_long + counts.dropped_untrained, counts.dropped_too_long,
             counts.dropped_untrained, counts.refused);
  fmt::print("  documents  {:>10}   truncated rows {}, split rows {}, duplicate rows {}\n", counts.pieces,
             counts.truncated, counts.split, counts.duplicates);
  fmt::print("  tokens     {:>10}   trained {} ({:.1f} %), longest document {}\n", counts.tokens, counts.trained_tokens,
             100 * counts.trained_share(), counts.longest);
}

void print_histogram(const AuditCounts& counts) {
  constexpr std::int64_t kBarWidth = 50;
  const std::int64_t most = *std::max_element(counts.histogram.begin(), counts.histogram.end());
  if (most == 0) return;
  fmt::print("tokens a document\n");
  for (std::size_t k = 0; k < counts.histogram.size(); ++k) {
    const std::int64_t documents = counts.histogram[k];
    if (documents == 0) continue;
    const auto bar = static_cast<std::size_t>((documents * kBarWidth + most - 1) / most);
    fmt::print("  {:>8} - {:<8} {:>8} {}\n", std::int64_t{1} << k, (std::int64_t{2} << k) - 1, documents,
               std::string(bar, '#'));
  }
}

void print_stats(const AuditCounts& counts) {
  for (const SourceCounts& source : counts.sources) print_counts(source);
  if (counts.sources.size() > 1) print_counts(counts.total());
  print_histogram(counts);
}

int print_stats_of(const Recipe& recipe, bool evaluation, bool as_json) {
  AuditCounts counts;
  const auto print = [&] { as_json ? fmt::print("{}\n", to_json(counts)) : print_stats(counts); };
  try {
    tokenised(recipe, evaluation, counts);
  } catch (const Error&) {
    if (counts.total().refused > 0) print();
    throw;
  }
  print();
  return 0;
}

void check_action(const std::string& action) {
  const std::vector<std::string> actions = {"show", "stats"};
  if (std::find(actions.begin(), actions.end(), action) != actions.end()) return;
  const auto meant = nearest(action, actions);
  throw Error{
      Fault::recipe,
      {},
      action.empty() ? "data of what?" : fmt::format("data can't \"{}\"", action),
      meant ? fmt::format("did you mean `tune data {}`?", *meant) : "write `tune data show` or `tune data stats`"};
}

}  // namespace

int data_verb(const std::vector<std::string>& arguments) {
  po::options_description options("Options");
  add_recipe_options(options);
  add_stage_option(options);
  options.add_options()("rows", po::value<std::int64_t>(), "show: so many rows; default: 5, all with --json")(
      "eval", "the eval_datasets instead of the datasets")("json", "show: one object a row; stats: one object");
  const bool has_action = !arguments.empty() && !arguments.front().starts_with('-');
  po::variables_map values;
  if (!parse_arguments(
          {arguments.begin() + (has_action ? 1 : 0), arguments.end()}, "data show|stats",
          "What training sees: show prints tokens with their ids, trained or masked and why; stats counts rows, "
          "tokens, dropped and truncated rows per source.",
          "tune data show --recipe quickstart --rows 3", options, values))
    return 0;
  const std::string action = has_action ? arguments.front() : "";
  check_action(action);
  const Stages all = stages_argument(values);
  const Recipe recipe = as_it_is_now(all, chosen_stage(all, values));
  const bool as_json = values.count("json") != 0;
  const bool evaluation = values.count("eval") != 0;
  if (action == "stats") return print_stats_of(recipe, evaluation, as_json);
  AuditCounts counts;
  const Tokenised data = tokenised(recipe, evaluation, counts);
  constexpr std::int64_t kShown = 5;
  const std::int64_t wanted = values.count("rows") != 0 ? values["rows"].as<std::int64_t>()
                              : as_json                 ? data.rows->size()
                                                        : kShown;
  const std::int64_t count = std::clamp<std::int64_t>(wanted, 0, data.rows->size());
  as_json ? print_rows_json(*data.rows, count) : print_rows(data, count, reasons_of(recipe));
  return 0;
}

}  // namespace tune
