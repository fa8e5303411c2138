// SPDX-License-Identifier: BSL-1.0
// iowq/version.hpp -- which iowq this is. Layer none; needs nothing.
//
// Macros, so that a program can choose with #if. The build file says the same number, and a test
// holds the two together.
#pragma once

#define IOWQ_VERSION_MAJOR 0
#define IOWQ_VERSION_MINOR 1
#define IOWQ_VERSION_PATCH 0
