#include "data/sources/fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "recipes/schema/problems.h"

namespace tune {

namespace {

constexpr const char* kMapIt = "map it: data.datasets[].";

[[noreturn]] void fail(const std::string& what, const std::string& remedy) {
  throw Error{Fault::data, Place{}, what, remedy};
}

// The name in the file of what we call `name`.
std::string name_in_file(const DatasetOptions& options, const std::string& name) {
  const auto found = options.field_names.find(name);
  return found == options.field_names.end() ? name : found->second;
}

// As other JSON readers do it, the last of several fields with one name counts.
Field* find(Fields& fields, std::string_view name) {
  const auto found = std::find_if(fields.rbegin(), fields.rend(), [&](const Field& f) { return f.name == name; });
  return found == fields.rend() ? nullptr : &*found;
}

// The same, but null is as good as nothing.
Field* given(Fields& fields, std::string_view name) {
  Field* field = find(fields, name);
  return field == nullptr || field->kind == FieldKind::nothing ? nullptr : field;
}

std::string described(FieldKind kind) {
  switch (kind) {
    case FieldKind::text:
      return "text";
    case FieldKind::list:
      return "a list";
    case FieldKind::boolean:
      return "true or false";
    case FieldKind::nothing:
      return "null";
    case FieldKind::other:
      return "neither text nor a list";
  }
  return {};
}

[[noreturn]] void fail_missing(const Fields& fields, const std::string& name, const std::string& in_file) {
  std::vector<std::string> names;
  for (const Field& field : fields) names.push_back(in_quotes(field.name));
  constexpr std::size_t kShown = 12;
  if (names.size() > kShown) names.resize(kShown);
  fail(names.empty() ? fmt::format("the row has no \"{}\"", in_file)
                     : fmt::format("the row has no \"{}\"; it has {}", in_file, fmt::join(names, ", ")),
       fmt::format("{}field_names: {{{}: NAME}}", kMapIt, name));
}

std::string take_text(Fields& fields, const DatasetOptions& options, const std::string& name) {
  const std::string in_file = name_in_file(options, name);
  Field* field = find(fields, in_file);
  if (field == nullptr) fail_missing(fields, name, in_file);
  if (field->kind != FieldKind::text)
    fail(fmt::format("\"{}\" is {}; it must be text", in_file, described(field->kind)), "put it in quotes");
  return std::move(field->text);
}

std::string take_answer(Fields& fields, const DatasetOptions& options, const std::string& name) {
  std::string text = take_text(fields, options, name);
  if (text.empty())
    fail(fmt::format("\"{}\" is empty; there is nothing to learn", name_in_file(options, name)),
         "fill it in or leave the row out");
  return text;
}

// ---- chat

std::string role_of(const std::string& role, std::size_t number, const DatasetOptions& options) {
  const auto mapped = options.field_roles.find(role);
  if (mapped != options.field_roles.end()) return mapped->second;
  if (role == "system" || role == "user" || role == "assistant") return role;
  if (role == "human") return "user";
  if (role == "gpt") return "assistant";
  fail(fmt::format("message {} has role {}; roles are system, user, assistant", number, in_quotes(role)),
       fmt::format("{}field_roles: {{{}: assistant}}", kMapIt, role));
}

// Names of a conversation's parts: ours, or ShareGPT's where the row has those.
struct ChatNames {
  std::string messages, role, content;
};

ChatNames chat_names(Fields& fields, const DatasetOptions& options) {
  const bool sharegpt = options.field_names.count("messages") == 0 && given(fields, "messages") == nullptr &&
                        given(fields, "conversations") != nullptr;
  ChatNames names{sharegpt ? "conversations" : name_in_file(options, "messages"), name_in_file(options, "role"),
                  name_in_file(options, "content")};
  Field* list = find(fields, names.messages);
  const bool from_value = list != nullptr && !list->items.empty() && given(list->items.front(), "from") != nullptr;
  if (from_value && options.field_names.count("role") == 0) names.role = "from";
  if (from_value && options.field_names.count("content") == 0) names.content = "value";
  return names;
}

std::string take_message_text(Fields& message, const std::string& name, std::size_t number) {
  Field* field = find(message, name);
  if (field == nullptr)
    fail(fmt::format("message {} has no \"{}\"", number, name),
         fmt::format("messages are [{{\"role\": …, \"content\": …}}, …]; {}field_names for other names", kMapIt));
  if (field->kind != FieldKind::text)
    fail(fmt::format("message {}: \"{}\" is {}; it must be text", number, name, described(field->kind)),
         "write each message as one text");
  return std::move(field->text);
}

std::vector<Message> messages_of(Field* list, const ChatNames& names, const DatasetOptions& options);

std::vector<Message> chat_messages(Fields& fields, const DatasetOptions& options) {
  const ChatNames names = chat_names(fields, options);
  Field* list = find(fields, names.messages);
  if (list == nullptr) fail_missing(fields, "messages", names.messages);
  std::vector<Message> messages = messages_of(list, names, options);
  if (std::none_of(messages.begin(), messages.end(), [](const Message& m) { return m.role == "assistant"; }))
    fail("the conversation has no assistant turn; there is nothing to learn",
         "leave the row out, or name the assistant's role: data.datasets[].field_roles: {bot: assistant}");
  return messages;
}

std::vector<Message> messages_of(Field* list, const ChatNames& names, const DatasetOptions& options) {
  if (list->kind != FieldKind::list)
    fail(fmt::format("\"{}\" is {}; it must be a list of messages", names.messages, described(list->kind)),
         "write [{\"role\": \"user\", \"content\": …}, …]");
  std::vector<Message> messages;
  for (std::size_t i = 0; i < list->items.size(); ++i) {
    const std::string role = role_of(take_message_text(list->items[i], names.role, i + 1), i + 1, options);
    std::string content = take_message_text(list->items[i], names.content, i + 1);
    if (role == "assistant" && content.empty())
      fail(fmt::format("message {} is an empty answer of the assistant; there is nothing to learn", i + 1),
           "fill it in or leave the row out");
    messages.push_back({role, std::move(content)});
  }
  return messages;
}

// ---- preference

// A prompt or an answer: one text, or messages.
std::vector<Message> part_of_pair(Fields& fields, const DatasetOptions& options, const std::string& name,
                                  const char* role) {
  const std::string in_file = name_in_file(options, name);
  Field* field = find(fields, in_file);
  if (field == nullptr) fail_missing(fields, name, in_file);
  if (field->kind == FieldKind::list) {
    ChatNames names{in_file, name_in_file(options, "role"), name_in_file(options, "content")};
    if (!field->items.empty() && given(field->items.front(), "from") != nullptr &&
        options.field_names.count("role") == 0)
      names.role = "from", names.content = "value";
    return messages_of(field, names, options);
  }
  const std::string text =
      role == std::string("user") ? take_text(fields, options, name) : take_answer(fields, options, name);
  return {{role, text}};
}

std::vector<Message> take_prompt(Fields& fields, const DatasetOptions& options) {
  if (given(fields, name_in_file(options, "prompt")) == nullptr) return {};
  return part_of_pair(fields, options, "prompt", "user");
}

// The answer to `prompt`, or a whole conversation: a list may be such even where there is a prompt.
std::vector<Message> take_conversation(Fields& fields, const DatasetOptions& options, std::vector<Message> prompt,
                                       const char* name) {
  std::vector<Message> answer = part_of_pair(fields, options, name, "assistant");
  if (answer.empty() || answer.back().role != "assistant")
    fail(fmt::format("{} doesn't end with an answer of the assistant", name), "leave the row out");
  if (answer.size() > 1) return answer;
  if (prompt.empty()) fail_missing(fields, "prompt", name_in_file(options, "prompt"));
  prompt.push_back(answer.front());
  return prompt;
}

void take_pair(Fields& fields, const DatasetOptions& options, Record& record) {
  const std::vector<Message> prompt = take_prompt(fields, options);
  record.messages = take_conversation(fields, options, prompt, "chosen");
  record.rejected = take_conversation(fields, options, prompt, "rejected");
}

// Text, because all of CSV is; "True" is what Python writes there. A number in JSON isn't read as one.
bool take_label(Fields& fields, const DatasetOptions& options) {
  const std::string in_file = name_in_file(options, "label");
  const Field* field = find(fields, in_file);
  if (field == nullptr) fail_missing(fields, "label", in_file);
  const bool readable = field->kind == FieldKind::text || field->kind == FieldKind::boolean;
  for (const auto& [label, spellings] :
       {std::pair(true, std::array{"true", "True", "TRUE", "1"}), {false, {"false", "False", "FALSE", "0"}}})
    if (readable && std::find(spellings.begin(), spellings.end(), field->text) != spellings.end()) return label;
  fail(fmt::format("\"{}\" is {}; it must be true or false", in_file,
                   field->kind == FieldKind::text ? in_quotes(field->text) : described(field->kind)),
       "write true where the answer is a good one, false where it is a bad one");
}

void take_single(Fields& fields, const DatasetOptions& options, Record& record) {
  record.messages = take_conversation(fields, options, take_prompt(fields, options), "completion");
  record.label = take_label(fields, options);
}

// ---- the other types

// The heading by which the template alpaca knows that there is an input.
std::string alpaca_question(Fields& fields, const DatasetOptions& options) {
  std::string question = take_text(fields, options, "instruction");
  if (given(fields, name_in_file(options, "input")) == nullptr) return question;
  const std::string text = take_text(fields, options, "input");
  return text.empty() ? question : question + "\n\n### Input:\n" + text;
}

// A text whose middle is to be filled in.
void take_middle(Fields& fields, const DatasetOptions& options, Record& record) {
  if (given(fields, name_in_file(options, "text")) != nullptr)
    fail(fmt::format("the row has \"{}\" and \"{}\"; it must have one of them", name_in_file(options, "text"),
                     name_in_file(options, "middle")),
         "a text is cut in three by itself; map the other to a name that isn't there: field_names: {middle: -}");
  record.text = take_text(fields, options, "prefix");
  const std::string middle = take_answer(fields, options, "middle");
  record.middle = {record.text.size(), record.text.size() + middle.size()};
  record.text += middle + take_text(fields, options, "suffix");
}

}  // namespace

std::vector<std::string> wanted_fields(const DatasetOptions& options) {
  const auto in_file = [&](const char* name) { return name_in_file(options, name); };
  switch (options.type) {
    case DatasetType::chat:
      return {in_file("messages"), "conversations"};
    case DatasetType::alpaca:
      return {in_file("instruction"), in_file("input"), in_file("output")};
    case DatasetType::prompt_completion:
      return {in_file("prompt"), in_file("completion")};
    case DatasetType::text:
      return {in_file("text")};
    case DatasetType::fim:
      return {in_file("text"), in_file("prefix"), in_file("middle"), in_file("suffix")};
    case DatasetType::preference:
      return {in_file("prompt"), in_file("chosen"), in_file("rejected")};
    case DatasetType::unpaired_preference:
      return {in_file("prompt"), in_file("completion"), in_file("label")};
  }
  return {};
}

Record make_record(Fields fields, const DatasetOptions& options) {
  Record record;
  switch (options.type) {
    case DatasetType::chat:
      record.messages = chat_messages(fields, options);
      break;
    case DatasetType::alpaca:
      record.messages.push_back({"user", alpaca_question(fields, options)});
      record.messages.push_back({"assistant", take_answer(fields, options, "output")});
      break;
    case DatasetType::prompt_completion:
      record.messages.push_back({"user", take_text(fields, options, "prompt")});
      record.messages.push_back({"assistant", take_answer(fields, options, "completion")});
      break;
    case DatasetType::text:
      record.text = take_answer(fields, options, "text");
      record.part = find(fields, name_in_file(options, "text"))->part;
      break;
    case DatasetType::preference:
      take_pair(fields, options, record);
      break;
    case DatasetType::unpaired_preference:
      take_single(fields, options, record);
      break;
    case DatasetType::fim:
      if (given(fields, name_in_file(options, "middle")) != nullptr) {
        take_middle(fields, options, record);
        break;
      }
      record.text = take_answer(fields, options, "text");
      record.part = find(fields, name_in_file(options, "text"))->part;
      break;
  }
  return record;
}

}  // namespace tune
