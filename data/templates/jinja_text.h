#pragma once
#include <string>
#include <string_view>

namespace tune {

/// A Jinja text in one spelling of the many that render the same: with trim_blocks and lstrip_blocks done as
/// transformers has them, comments and white space inside of tags gone, texts in double quotes with \n for a line feed,
/// texts added to texts joined, x['name'] as x.name. Of the words of a whole system turn of chatml only its place is
/// kept. Two texts with equal plain spellings render equally, that system turn apart.
std::string plain_jinja(std::string_view jinja);

/// A text that renders the same with trim_blocks and lstrip_blocks, as transformers has them, and without, as others
/// do: comments and white space that doesn't reach the output are gone, and what does stands in tags.
std::string spelled_out_jinja(std::string_view jinja);

}  // namespace tune
