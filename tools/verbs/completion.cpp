#include <fmt/format.h>

#include "recipes/schema/error.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/verbs.h"

namespace tune {
namespace {

// Options come from --help itself, so that the script cannot fall behind the program.
constexpr const char* kBash = R"bash(_tune() {
  local word="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" verb="${COMP_WORDS[1]}"
  case "$previous" in
    --recipe) COMPREPLY=($(compgen -f -- "$word") $(compgen -W "$(tune recipes ls 2>/dev/null | cut -d' ' -f1)" -- "$word"))
              return ;;
  esac
  if [[ $COMP_CWORD -eq 1 && $word != -* ]]; then
    COMPREPLY=($(compgen -W "VERBS" -- "$word"))
  elif [[ $word == -* ]]; then
    [[ $verb == -* ]] && verb=run
    COMPREPLY=($(compgen -W "$(tune "$verb" --help 2>/dev/null | grep -oE '^ +--[a-z-]+')" -- "$word"))
  elif [[ $verb == models ]]; then
    COMPREPLY=($(compgen -W "$(tune models 2>/dev/null | grep -oE '^  [a-z][a-z0-9.-]+')" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}
complete -o filenames -F _tune tune
)bash";

}  // namespace

int completion_verb(const std::vector<std::string>& arguments) {
  const bool bash = arguments == std::vector<std::string>{"bash"};
  boost::program_options::variables_map values;
  if (!bash &&
      !parse_arguments(arguments, "completion", "A completion script for bash.", "eval \"$(tune completion bash)\"",
                       boost::program_options::options_description("Options"), values))
    return 0;
  if (!bash) throw Error{Fault::recipe, {}, "no shell given", "write: tune completion bash"};
  std::string names;
  for (const Verb& verb : verbs()) names += (names.empty() ? "" : " ") + std::string(verb.name);
  std::string script = kBash;
  script.replace(script.find("VERBS"), 5, names);
  fmt::print("{}", script);
  return 0;
}

}  // namespace tune
