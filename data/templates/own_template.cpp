#include "data/templates/own_template.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/templates/chat_spans.h"
#include "data/templates/jinja_text.h"
#include "recipes/schema/error.h"
#include "recipes/schema/suggest.h"

namespace tune {

namespace {

struct KnownJinja {
  std::string_view name;
  bool serves;  // renders what we render; else it is of the same format, but we say it better
  std::string plain;
};

// Llama 2's texts differ in how they strip, in a default system message that is off, and in a branch for system
// messages that is never reached.
std::vector<std::string> llama2_texts() {
  std::vector<std::string> texts;
  for (const bool has_default : {false, true})
    for (const bool has_branch : {false, true})
      for (const std::string strip : {".strip()", " | trim"})
        texts.push_back(
            std::string("{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set "
                        "system_message = messages[0]['content'] %}") +
            (has_default ? "{% elif USE_DEFAULT_PROMPT == true and not '<<SYS>>' in messages[0]['content'] %}{% set "
                           "loop_messages = messages %}{% set system_message = 'DEFAULT_SYSTEM_MESSAGE' %}"
                         : "") +
            "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in "
            "loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ "
            "raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% "
            "if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + "
            "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% "
            "if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content" +
            strip + " + ' [/INST]' }}" +
            (has_branch ? "{% elif message['role'] == 'system' %}{{ '<<SYS>>\\n' + content" + strip +
                              " + '\\n<</SYS>>\\n\\n' }}"
                        : "") +
            "{% elif message['role'] == 'assistant' %}{{ ' ' + content" + strip +
            " + ' ' + eos_token }}{% endif %}{% endfor %}");
  return texts;
}

// Mistral's of 2023: no system message, no space before an answer; in 7B Instruct v0.1 one behind it. And the one that
// we write for some tokenizers.
std::vector<std::string> mistral_texts() {
  std::vector<std::string> texts;
  for (const std::string end : {"eos_token", "eos_token + ' '"})
    texts.push_back(
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ "
        "raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if "
        "message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == "
        "'assistant' %}{{ message['content'] + " +
        end +
        "}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}");
  texts.emplace_back(mistral_jinja_without_space());
  return texts;
}

constexpr std::string_view kSolar =
    "{% for message in messages %}{% if message['role'] == 'system' %}{% if message['content']%}{{'### System:\\n' + "
    "message['content']+'\\n\\n'}}{% endif %}{% elif message['role'] == 'user' %}{{'### User:\\n' + "
    "message['content']+'\\n\\n'}}{% elif message['role'] == 'assistant' %}{{'### Assistant:\\n'  + "
    "message['content']}}{% endif %}{% if loop.last and add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}{% "
    "endfor %}";

constexpr std::string_view kCodeLlama70b =
    "{% if messages[0]['role'] == 'system' %}{% set user_index = 1 %}{% else %}{% set user_index = 0 %}{% endif %}{% "
    "for message in messages %}{% if (message['role'] == 'user') != ((loop.index0 + user_index) % 2 == 0) %}{{ "
    "raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if "
    "loop.index0 == 0 %}{{ '<s>' }}{% endif %}{% set content = 'Source: ' + message['role'] + '\\n\\n ' + "
    "message['content'] | trim %}{{ content + ' <step> ' }}{% endfor %}{{'Source: assistant\\nDestination: "
    "user\\n\\n '}}";

// With or without a line that switches the generation prompt off, and a first system turn in the model's own words:
// SmolLM2, Qwen1.5 and 2, Dolphin, OpenHermes.
std::vector<std::string> chatml_texts() {
  std::vector<std::string> texts;
  for (const std::string begin :
       {"", "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"})
    for (const std::string system :
         {"",
          "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n...<|im_end|>\\n' }}{% "
          "endif %}"})
      texts.push_back(begin + "{% for message in messages %}" + system +
                      "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% "
                      "endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
  return texts;
}

std::vector<KnownJinja> known_texts() {
  std::vector<KnownJinja> known;
  const auto add = [&](std::string_view name, bool serves, std::string_view jinja) {
    known.push_back({name, serves, plain_jinja(jinja)});
  };
  for (const std::string& text : llama2_texts()) add("llama2", true, text);
  for (const std::string& text : mistral_texts()) add("mistral", false, text);
  for (const std::string& text : chatml_texts()) add("chatml", true, text);
  add("solar", false, kSolar);
  add("codellama-70b", true, kCodeLlama70b);
  for (const std::string_view name : kChatTemplates)
    if (name != kModelTemplate) add(name, true, find_template(name).jinja());
  return known;
}

const KnownJinja* find_known(std::string_view jinja) {
  static const std::vector<KnownJinja> known = known_texts();
  const auto found = std::find_if(known.begin(), known.end(),
                                  [plain = plain_jinja(jinja)](const KnownJinja& one) { return one.plain == plain; });
  return found == known.end() ? nullptr : &*found;
}

// llama2 and codellama are two names of one format.
bool same_format(std::string_view name, const ChatTemplate& format) {
  return name == format.name() || (!name.empty() && find_template(name).jinja() == format.jinja());
}

}  // namespace

std::string_view recognise_template(std::string_view jinja) {
  const KnownJinja* known = find_known(jinja);
  return known == nullptr ? "" : known->name;
}

std::string_view equivalent_template(std::string_view jinja) {
  const KnownJinja* known = find_known(jinja);
  if (known == nullptr) return "";
  return known->serves || known->plain == plain_jinja(mistral_jinja_without_space()) ? known->name : "";
}

std::string_view resembling_template(std::string_view jinja) {
  struct Marks {
    std::string_view name, mark, other_mark;
  };
  static constexpr Marks kMarks[] = {{"chatml", "<|im_start|>", ""},      {"zephyr", "<|assistant|>", ""},
                                     {"llama2", "<<SYS>>", ""},           {"codellama-70b", "<step>", "Source: "},
                                     {"alpaca", "### Response", ""},      {"solar", "### Assistant", "### User"},
                                     {"mistral", "[/INST]", "' [/INST]'"}};
  for (const auto& [name, mark, other_mark] : kMarks)
    if (jinja.find(mark) != std::string_view::npos && jinja.find(other_mark) != std::string_view::npos) return name;
  return "";
}

bool own_template_serves(const ChatTemplate& format, const Tokenizer& tokenizer) {
  const std::string& own = tokenizer.chat_template;
  if (own.empty()) return false;
  const std::string_view best = format.jinja_for(tokenizer);
  if (plain_jinja(own) == plain_jinja(best)) return true;
  const KnownJinja* known = find_known(own);
  if (known == nullptr) return same_format(resembling_template(own), format);
  return known->serves && same_format(known->name, format) && best == format.jinja();
}

const ChatTemplate& own_template(const Tokenizer& tokenizer) {
  if (tokenizer.chat_template.empty())
    throw Error{Fault::recipe, Place{}, "chat_template is model, but the model's files have no chat template",
                "name the format at data.chat_template; a base model that knows none may learn any: chatml, or none"};
  const std::string_view name = recognise_template(tokenizer.chat_template);
  if (!name.empty()) return find_template(name);
  std::vector<std::string> names;
  for (const std::string_view known : kChatTemplates)
    if (known != kModelTemplate && known != "none") names.emplace_back(known);
  const std::string_view alike = resembling_template(tokenizer.chat_template);
  throw Error{Fault::recipe, Place{},
              fmt::format("chat_template is model, but the model's own chat template isn't one that is known here{}",
                          alike.empty() ? "" : fmt::format(" (it resembles {})", alike)),
              fmt::format("name a format at data.chat_template: {}, or none for none", one_of(names))};
}

std::vector<std::string> template_warnings(const ChatTemplate& format, const Tokenizer& tokenizer, Stage stage,
                                           const std::vector<DatasetOptions>& datasets) {
  std::vector<std::string> warnings;
  const auto is_text = [](const DatasetOptions& options) {
    return options.type == DatasetType::text || options.type == DatasetType::fim;
  };
  if (stage == Stage::pretrain || (!datasets.empty() && std::all_of(datasets.begin(), datasets.end(), is_text)))
    return warnings;
  if (std::string own = format.warning(tokenizer); !own.empty()) warnings.push_back(std::move(own));
  const std::string& jinja = tokenizer.chat_template;
  const std::string_view exact = recognise_template(jinja);
  const std::string_view name = exact.empty() ? resembling_template(jinja) : exact;
  if (name.empty() || format.name() == "none" || same_format(name, format)) return warnings;
  warnings.push_back(fmt::format(
      "THE MODEL SPEAKS ANOTHER FORMAT: data.chat_template is {0}, but the model's own chat template {1} {2}, so that "
      "it "
      "has to unlearn that one and who asks it in that one gets worse answers; write data.chat_template: {2}{3}",
      format.name(), exact.empty() ? "resembles" : "is", name, exact.empty() ? "" : " (or model)"));
  return warnings;
}

}  // namespace tune
