// The main function and the framework of every doctest program, compiled once: under sanitizers it
// takes longer than most tests.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
