// SPDX-License-Identifier: BSL-1.0
// Precompiled for every layer's tests: what all of them include and nobody here edits.
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
