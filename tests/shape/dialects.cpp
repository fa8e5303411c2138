// SPDX-License-Identifier: BSL-1.0
// Includes iowq after macros of other libraries, and calls a function whose name one of them took.
#include <chrono>

// Qt.
#define slots
#define signals public
#define emit
#define foreach for
#define forever for (;;)
// curses.
#define timeout(delay) wtimeout(stdscr, delay)
#define getch() wgetch(stdscr)
// GCC without -std.
#define unix 1
#define linux 1

#include <iowq/iowq.hpp>

static iowq::task<> body() { co_await (iowq::timeout)(iowq::yield(), std::chrono::seconds{1}); }
int main() { iowq::run(body()); }
