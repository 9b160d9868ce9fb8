#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/row.h"
#include "data/sources/record.h"
#include "data/templates/template.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"
#include "recipes/schema/recipe.h"

struct XXH3_state_s;

namespace tune {

/// What turns a record into rows; the same for all of them.
struct Encoder {
  const Tokenizer& tokenizer;
  const ChatTemplate& chat_template;
  TrainOn train_on;
  Overflow overflow;
  std::int64_t max_length;
};

enum class Fit { whole, truncated, split, too_long };

/// What became of a record. Of a text in parts, the pieces that are full by now; the rest comes with the last part.
struct Encoded {
  std::vector<Row> pieces;  // only those with a token to learn from
  Fit fit = Fit::whole;
  std::uint64_t content_hash = 0;  // of the ids before they were cut; equal rows have equal ones
  std::optional<Error> refused;    // then the rest means nothing
};

/// Brings the ids of one record to max_length as `overflow` says. They may come in parts: of a long text no more is
/// held than that many ids. Pieces of a split row overlap by a token, which the later one does not train: so each token
/// that is trained is predicted from something.
class Fitter {
 public:
  explicit Fitter(const Encoder& encoder);
  Encoded add(const Row& ids, bool last);

 private:
  void cut_full_pieces(std::vector<Row>& pieces);

  struct FreeHash {
    void operator()(XXH3_state_s* state) const;
  };
  const Encoder& encoder_;
  Row row_;  // what isn't handed out yet
  std::size_t length_ = 0;
  std::unique_ptr<XXH3_state_s, FreeHash> hash_;
};

/// The ids of a record, not yet fitted. Error{Fault::data} without a place for conversations that the template can't
/// express.
Row encode(const Record& record, const Encoder& encoder);

}  // namespace tune
