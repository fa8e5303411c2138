// SPDX-License-Identifier: BSL-1.0
#include "run.hpp"

int main(int argc, char** argv) { return iowq_test::run(argc, argv); }
