// SPDX-License-Identifier: BSL-1.0
#pragma once

namespace iowq_test {
/// Runs every test case of the program, then prints which were skipped and why.
int run(int argc, char** argv);
}  // namespace iowq_test
