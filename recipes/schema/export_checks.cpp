#include <fmt/format.h>

#include <set>

#include "recipes/schema/checks.h"
#include "recipes/schema/error.h"
#include "recipes/schema/quants.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/units.h"

namespace tune {
namespace {

// One function a sentence, named after it.

void exported_adapters_exist(const Recipe& recipe, Reading& reading) {
  if (has_adapter(recipe.adapter)) return;
  for (std::size_t i = 0; i < recipe.exports.size(); ++i) {
    const ExportOptions& wanted = recipe.exports[i];
    if (is_adapter(wanted.format))
      reading.problems.add(
          reading.place_of(fmt::format("export[{}].format", i)),
          fmt::format("format is {}, but adapter.type is none, so there is no adapter", spelling(wanted.format)),
          "write hf, gguf or onnx");
    if (wanted.separate_adapter && wanted.format == ExportFormat::onnx)
      reading.problems.add(reading.place_of(fmt::format("export[{}].separate_adapter", i)),
                           "separate_adapter is true, but adapter.type is none, so there is no adapter",
                           "leave it out");
  }
}

void formats_hold_their_quant(const Recipe& recipe, Reading& reading) {
  for (std::size_t i = 0; i < recipe.exports.size(); ++i) {
    const ExportOptions& wanted = recipe.exports[i];
    if (!wanted.quant) continue;
    const Place place = reading.place_of(fmt::format("export[{}].quant", i));
    if (is_adapter(wanted.format))
      reading.problems.add(
          place, fmt::format("quant is given, but format {} keeps the adapter's own numbers", spelling(wanted.format)),
          "leave it out");
    else if (const QuantFault fault = fault_of(wanted.format, *wanted.quant); !fault.what.empty())
      reading.problems.add(place, fault.what, fault.remedy);
  }
}

void only_onnx_has_flavours_and_separate_adapters(const Recipe& recipe, Reading& reading) {
  for (std::size_t i = 0; i < recipe.exports.size(); ++i) {
    const ExportOptions& wanted = recipe.exports[i];
    if (wanted.format == ExportFormat::onnx) continue;
    const std::string path = fmt::format("export[{}]", i);
    if (wanted.flavour)
      reading.problems.add(reading.place_of(path + ".flavour"),
                           fmt::format("flavour is given with format {}", spelling(wanted.format)),
                           "only onnx has flavours; leave it out");
    if (wanted.separate_adapter)
      reading.problems.add(reading.place_of(path + ".separate_adapter"),
                           fmt::format("separate_adapter is true with format {}", spelling(wanted.format)),
                           "only onnx has it; leave it out");
  }
}

void only_merged_qlora_has_a_base_to_choose(const Recipe& recipe, Reading& reading) {
  for (std::size_t i = 0; i < recipe.exports.size(); ++i) {
    const ExportOptions& wanted = recipe.exports[i];
    if (!wanted.merge_base) continue;
    const Place place = reading.place_of(fmt::format("export[{}].merge_base", i));
    if (recipe.adapter.type != AdapterType::qlora)
      reading.problems.add(place,
                           fmt::format("merge_base is given, but adapter.type is {}", spelling(recipe.adapter.type)),
                           "only qlora trains on other weights than the base model's; leave it out");
    else if (is_adapter(wanted.format))
      reading.problems.add(place,
                           fmt::format("merge_base is given, but format {} merges nothing", spelling(wanted.format)),
                           "leave it out");
    else if (wanted.separate_adapter)
      reading.problems.add(place, "merge_base is given, but separate_adapter merges nothing", "leave it out");
  }
}

void only_adapters_are_checked(const Recipe& recipe, Reading& reading) {
  for (std::size_t i = 0; i < recipe.exports.size(); ++i)
    if (const ExportOptions& wanted = recipe.exports[i]; wanted.check && wanted.format != ExportFormat::adapter)
      reading.problems.add(reading.place_of(fmt::format("export[{}].check", i)),
                           fmt::format("check is {} with format {}", spelling(*wanted.check), spelling(wanted.format)),
                           "it goes with format adapter; leave it out");
}

void shards_have_a_size(const Recipe& recipe, Reading& reading) {
  for (std::size_t i = 0; i < recipe.exports.size(); ++i) {
    const ExportOptions& wanted = recipe.exports[i];
    if (wanted.max_shard_size.empty()) continue;
    const Place place = reading.place_of(fmt::format("export[{}].max_shard_size", i));
    if (wanted.format != ExportFormat::hf && wanted.format != ExportFormat::gguf) {
      reading.problems.add(place, fmt::format("max_shard_size is given with format {}", spelling(wanted.format)),
                           "only hf and gguf are split over files; leave it out");
      continue;
    }
    try {
      parse_shard_size(wanted.max_shard_size, "");
    } catch (const Error& error) {
      reading.problems.add(place, error.what());
    }
  }
}

void importance_goes_with_few_bits(const Recipe& recipe, Reading& reading) {
  for (std::size_t i = 0; i < recipe.exports.size(); ++i) {
    const ExportOptions& wanted = recipe.exports[i];
    if (wanted.imatrix.empty() || heeds_importance(wanted.format, wanted.quant.value_or(kDefaultQuant))) continue;
    reading.problems.add(reading.place_of(fmt::format("export[{}].imatrix", i)),
                         "an importance matrix has no effect on this format",
                         "it goes with format gguf and q6_k, q5_k_m, q5_0, q4_k_m or q4_0; leave it out");
  }
}

/// What an export is called beside its format: gguf and onnx have their quant in their names, onnx its flavour, too.
std::string details_of(const ExportOptions& wanted) {
  std::string text;
  if (wanted.format == ExportFormat::onnx)
    text += fmt::format(" {}", spelling(wanted.flavour.value_or(kDefaultFlavour)));
  if (wanted.format == ExportFormat::gguf || wanted.format == ExportFormat::onnx)
    text += fmt::format(" {}", spelling(wanted.quant.value_or(kDefaultQuant)));
  if (wanted.separate_adapter) text += " with a separate adapter";
  return text;
}

void exports_have_names_of_their_own(const Recipe& recipe, Reading& reading) {
  std::set<std::string> seen;
  for (std::size_t i = 0; i < recipe.exports.size(); ++i) {
    const std::string name = fmt::format("{}{}", spelling(recipe.exports[i].format), details_of(recipe.exports[i]));
    if (!seen.insert(name).second)
      reading.problems.add(reading.place_of(fmt::format("export[{}]", i)), fmt::format("{} is exported twice", name),
                           "keep one of them");
  }
}

}  // namespace

void check_export_combinations(const Recipe& recipe, Reading& reading) {
  exported_adapters_exist(recipe, reading);
  formats_hold_their_quant(recipe, reading);
  only_onnx_has_flavours_and_separate_adapters(recipe, reading);
  only_merged_qlora_has_a_base_to_choose(recipe, reading);
  only_adapters_are_checked(recipe, reading);
  shards_have_a_size(recipe, reading);
  importance_goes_with_few_bits(recipe, reading);
  exports_have_names_of_their_own(recipe, reading);
}

}  // namespace tune
