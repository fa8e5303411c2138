// SPDX-License-Identifier: BSL-1.0
// Precompiled for the tests of every layer: headers of other libraries that all of them include.
//
// No #pragma once: the compiler sees this as a main file.

#include <array>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
