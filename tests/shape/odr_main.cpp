// SPDX-License-Identifier: BSL-1.0
// Two translation units with all of iowq in each must make one program.
#include <iowq/iowq.hpp>

#include <string_view>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
static_assert(std::string_view(TEXT(IOWQ_VERSION_MAJOR) "." TEXT(IOWQ_VERSION_MINOR) "." TEXT(
                  IOWQ_VERSION_PATCH)) == IOWQ_TEST_VERSION,
              "iowq/version.hpp and meson.build name different versions");

iowq::task<int> other(int n);

static iowq::task<int> twice(int n) { co_return co_await other(n) + co_await other(n); }

int main() { return iowq::run(twice(21)) == 42 ? 0 : 1; }
