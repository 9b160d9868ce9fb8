#include "tools/verbs/complaint.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <new>
#include <system_error>

#include "recipes/schema/error.h"

namespace tune {
namespace {

constexpr const char* kMemoryRemedy =
    "lower train.per_device_train_batch_size or data.max_length, or set train.gradient_checkpointing: true; "
    "`tune plan` says how much is needed";

Complaint complaint(const std::string& text, Fault fault) { return {text, static_cast<int>(fault)}; }

// LibTorch's own exceptions, which a person cannot act on as they are.
Complaint complaint(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  if (text.find("not enough memory") != std::string::npos || text.find("out of memory") != std::string::npos ||
      text.find("can't allocate memory") != std::string::npos)
    return complaint(fmt::format("out of memory: {}; {}", text, kMemoryRemedy), Fault::memory);
  return complaint(fmt::format("LibTorch failed: {}", text), Fault::running);
}

}  // namespace

Complaint complaint_of(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return complaint(error.what(), error.fault());
  } catch (const Bug& bug) {
    return complaint(fmt::format("a mistake in tune itself: {}; please report it with your recipe", bug.what()),
                     Fault::running);
  } catch (const std::bad_alloc&) {
    return complaint(fmt::format("out of memory; {}", kMemoryRemedy), Fault::memory);
  } catch (const c10::Error& error) {
    return complaint(error);
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::broken_pipe) return {"", kClosedPipe};
    return complaint(error.what(), Fault::running);
  } catch (const std::exception& error) {
    return complaint(error.what(), Fault::running);
  }
}

}  // namespace tune
