// Error handling at the C boundary: every function of this folder returns null, or an error message that the caller
// frees with patchmix_free_message. No C++ exception crosses it.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>
#include <optional>
#include <string>

namespace patchmix {

// Fallback message when `strdup` fails.
inline char out_of_memory[] = "out of memory";

// Runs `work`; the message of its exception, if it throws one.
template <class Work>
std::optional<std::string> message_of(Work&& work) {
  try {
    work();
    return std::nullopt;
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception of an unknown type";
  }
}

// Runs `work`; null, or the message of its exception.
template <class Work>
char* guarded(Work&& work) noexcept {
  try {
    const auto message = message_of(work);
    if (!message) return nullptr;
    char* copy = strdup(message->c_str());
    return copy != nullptr ? copy : out_of_memory;
  } catch (...) {  // there was no memory for the message
    return out_of_memory;
  }
}

}  // namespace patchmix
