// SPDX-License-Identifier: BSL-1.0
#include <iowq/iowq.hpp>

iowq::task<int> other(int n) { co_return n; }
