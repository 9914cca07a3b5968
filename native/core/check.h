// FL_CHECK: an internal fact. Stays on in release: a block server that goes on after a broken
// invariant writes bad data.
#pragma once

#include <cstdio>
#include <cstdlib>

#define FL_CHECK(condition)                                                                  \
  do {                                                                                       \
    if (!(condition)) [[unlikely]] {                                                         \
      std::fprintf(stderr, "flashlun: broken invariant: %s (%s:%d)\n", #condition, __FILE__, \
                   __LINE__);                                                                \
      std::abort();                                                                          \
    }                                                                                        \
  } while (false)
