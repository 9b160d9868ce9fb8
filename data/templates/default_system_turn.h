#pragma once
#include <string>
#include <string_view>

namespace tune {

/// The system turn with which a model's own chatml template begins a conversation that has none. The Jinja text is
/// read, never executed: a turn is found where it is spelled out in one text, <|im_start|>system … <|im_end|>, under a
/// condition on the first message's role.
struct DefaultSystemTurn {
  std::string text;      // rendered; empty where there is none
  bool unclear = false;  // the template makes a system turn of something that isn't understood here
};

DefaultSystemTurn default_system_turn(std::string_view jinja);

}  // namespace tune
