#include "data/audit.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <utility>

namespace tune {

namespace {

constexpr auto kNumbers = std::to_array<std::pair<const char*, std::int64_t SourceCounts::*>>({
    {"rows", &SourceCounts::rows},
    {"refused", &SourceCounts::refused},
    {"kept", &SourceCounts::kept},
    {"pieces", &SourceCounts::pieces},
    {"dropped_too_long", &SourceCounts::dropped_too_long},
    {"dropped_untrained", &SourceCounts::dropped_untrained},
    {"truncated", &SourceCounts::truncated},
    {"split", &SourceCounts::split},
    {"duplicates", &SourceCounts::duplicates},
    {"tokens", &SourceCounts::tokens},
    {"trained_tokens", &SourceCounts::trained_tokens},
    {"longest", &SourceCounts::longest},
});

nlohmann::ordered_json as_json(const SourceCounts& counts) {
  nlohmann::ordered_json json{{"file", counts.file}};
  for (const auto& [name, member] : kNumbers) json[name] = counts.*member;
  json["trained_share"] = counts.trained_share();
  return json;
}

}  // namespace

double SourceCounts::trained_share() const {
  return tokens == 0 ? 0 : static_cast<double>(trained_tokens) / static_cast<double>(tokens);
}

SourceCounts AuditCounts::total() const {
  SourceCounts total{"all"};
  for (const SourceCounts& source : sources) {
    for (const auto& [name, member] : kNumbers) total.*member += source.*member;
  }
  total.longest = 0;
  for (const SourceCounts& source : sources) total.longest = std::max(total.longest, source.longest);
  return total;
}

void count_document(AuditCounts& counts, std::size_t source, std::int64_t tokens, std::int64_t trained_tokens) {
  SourceCounts& of_source = counts.sources[source];
  ++of_source.pieces;
  of_source.tokens += tokens;
  of_source.trained_tokens += trained_tokens;
  of_source.longest = std::max(of_source.longest, tokens);
  ++counts.histogram[static_cast<std::size_t>(std::bit_width(static_cast<std::uint32_t>(tokens)) - 1)];
}

std::vector<std::string> long_row_warnings(const AuditCounts& counts, std::int64_t positions) {
  std::vector<std::string> warnings;
  for (const SourceCounts& source : counts.sources)
    if (source.longest > positions)
      warnings.push_back(
          fmt::format("{}: its longest row has {} tokens, the model was made for {} (max_position_embeddings); "
                      "positions beyond that "
                      "are extrapolated: lower data.max_length unless the model is known to bear it",
                      source.file, source.longest, positions));
  return warnings;
}

std::string to_json(const AuditCounts& counts) {
  nlohmann::ordered_json json{{"total", as_json(counts.total())}};
  json["total"].erase("file");
  json["sources"] = nlohmann::ordered_json::array();
  for (const SourceCounts& source : counts.sources) json["sources"].push_back(as_json(source));
  json["length_histogram"] = nlohmann::ordered_json::array();
  for (std::size_t k = 0; k < counts.histogram.size(); ++k) {
    if (counts.histogram[k] > 0)
      json["length_histogram"].push_back(
          {{"from", std::int64_t{1} << k}, {"to", (std::int64_t{2} << k) - 1}, {"documents", counts.histogram[k]}});
  }
  return json.dump();
}

AuditCounts audit_from_json(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text);
  AuditCounts counts;
  for (const auto& source : json.at("sources")) {
    SourceCounts& read = counts.sources.emplace_back();
    read.file = source.at("file");
    for (const auto& [name, member] : kNumbers) read.*member = source.at(name);
  }
  for (const auto& bin : json.at("length_histogram"))
    counts.histogram.at(static_cast<std::size_t>(std::bit_width(bin.at("from").get<std::uint32_t>()) - 1)) =
        bin.at("documents");
  return counts;
}

}  // namespace tune
