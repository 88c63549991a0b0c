#pragma once
// Assertions stay on in release: they are for our own mistakes and cost one pool process. Bytes from the wire, a disk or
// a user are never asserted: they become an Error.
namespace zpair {
[[noreturn]] void assertion_failed(const char* file, int line, const char* condition, const char* why) noexcept;
}

#define ZP_ASSERT(condition, why)                                     \
  do {                                                                \
    if (!(condition)) [[unlikely]]                                    \
      ::zpair::assertion_failed(__FILE__, __LINE__, #condition, why); \
  } while (0)
