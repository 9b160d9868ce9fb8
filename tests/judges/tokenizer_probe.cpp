// What our tokenizer and templates make of JSON lines on stdin, a line each on stdout, for the judges.
//   tokenizer_probe MODEL
//   {"encode": "text"}  {"plain": "text"}                     -> {"ids": [...], "begin": [...]}
//   {"decode": [ids], "skip_special": true}                   -> {"text": "..."}
//   {"messages": [...], "template": "zephyr", "train_on": "assistant", "generation": false, "bos": false}
//                                                             -> {"text": "...", "ids": [...], "trained": [...]}
//   {"jinja": "zephyr"}                                       -> {"text": "..."}, as exported for this tokenizer
//   {"recognise": "jinja text"}                               -> {"text": "zephyr"}
//   {"fim": "text", "middle": [begin, end]?, "rate": 1, "spm_rate": 0.5, "seed": 42, "line": 1, "train_on":
//   "assistant",
//    "max_length": 4096, "overflow": "error"}                 -> {"rows": [{"ids": [...], "trained": [...]}]}
// A line that is refused gives {"error": "..."}.
#include <iostream>
#include <nlohmann/json.hpp>

#include "data/infilling.h"
#include "data/templates/own_template.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"

namespace {

using nlohmann::json;

json encoding_json(const tune::Encoding& encoding) { return {{"ids", encoding.ids}, {"begin", encoding.begin}}; }

tune::TrainOn train_on(const std::string& name) {
  return name == "all" ? tune::TrainOn::all : name == "last" ? tune::TrainOn::last : tune::TrainOn::assistant;
}

json chat(const json& request, const tune::Tokenizer& tokenizer) {
  std::vector<tune::Message> messages;
  for (const json& message : request.at("messages")) messages.push_back({message.at("role"), message.at("content")});
  const auto spans = tune::find_template(request.at("template").get<std::string>(), tokenizer)
                         .render(messages, tokenizer, train_on(request.value("train_on", "assistant")),
                                 request.value("generation", false));
  std::string text;
  for (const tune::Span& span : spans) text += span.text;
  const tune::Row row = tune::encode_spans(spans, tokenizer, request.value("bos", false));
  return {{"text", text}, {"ids", row.ids}, {"trained", row.trained}};
}

json infill(const json& request, const tune::Tokenizer& tokenizer) {
  tune::Record record{.text = request.at("fim"), .place = {"rows.jsonl", request.value("line", 1)}};
  if (request.contains("middle")) record.middle = {request["middle"][0], request["middle"][1]};
  const std::string overflow = request.value("overflow", "error");
  const tune::Encoder encoder{tokenizer, tune::find_template("none"), train_on(request.value("train_on", "assistant")),
                              overflow == "split"      ? tune::Overflow::split
                              : overflow == "truncate" ? tune::Overflow::truncate
                                                       : tune::Overflow::error,
                              request.value("max_length", 4096)};
  const tune::DatasetOptions options{.path = "rows.jsonl",
                                     .type = tune::DatasetType::fim,
                                     .fim_rate = request.value("rate", 1.0),
                                     .fim_spm_rate = request.value("spm_rate", 0.5)};
  const tune::Encoded encoded = tune::Infiller(options, encoder, request.value("seed", 42)).encode(record);
  if (encoded.refused) throw *encoded.refused;
  json rows = json::array();
  for (const tune::Row& row : encoded.pieces) rows.push_back({{"ids", row.ids}, {"trained", row.trained}});
  return {{"rows", rows}};
}

json answer(const json& request, const tune::Tokenizer& tokenizer) {
  if (request.contains("encode")) return encoding_json(tokenizer.encode(request["encode"].get<std::string>()));
  if (request.contains("plain")) return encoding_json(tokenizer.encode_plain(request["plain"].get<std::string>()));
  if (request.contains("jinja"))
    return {{"text", tune::find_template(request["jinja"].get<std::string>(), tokenizer).jinja_for(tokenizer)}};
  if (request.contains("recognise"))
    return {{"text", tune::recognise_template(request["recognise"].get<std::string>())}};
  if (request.contains("fim")) return infill(request, tokenizer);
  if (request.contains("decode")) {
    const auto ids = request["decode"].get<std::vector<std::int32_t>>();
    return {{"text", tokenizer.decode(ids, request.value("skip_special", true))}};
  }
  return chat(request, tokenizer);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "usage: tokenizer_probe MODEL < requests.jsonl\n";
    return 2;
  }
  try {
    const auto tokenizer = tune::open_tokenizer(arguments[1]);
    for (std::string line; std::getline(std::cin, line);) {
      json result;
      try {
        result = answer(json::parse(line), *tokenizer);
      } catch (const tune::Error& error) {
        result = {{"error", error.what()}};
      }
      std::cout << result.dump() << '\n';
    }
  } catch (const tune::Error& error) {
    std::cerr << error.what() << '\n';
    return error.exit_code();
  }
}
