// SPDX-License-Identifier: BSL-1.0
// For operations that must use a bounded amount of stack, however many or deeply nested they are.
#pragma once

#include <pthread.h>

#include <cstdlib>
#include <memory>
#include <type_traits>

namespace iowq_test {

/// Runs `body` on a thread with a stack of 256 KiB, and waits for it.
template <class Body>
void on_small_stack(Body&& body) {
  using callable = std::remove_reference_t<Body>;
  pthread_attr_t attributes;
  pthread_t thread;
  const bool made = ::pthread_attr_init(&attributes) == 0 &&
                    ::pthread_attr_setstacksize(&attributes, 256 * 1024) == 0 &&
                    ::pthread_create(
                        &thread, &attributes,
                        [](void* raw) -> void* {
                          (*static_cast<callable*>(raw))();
                          return nullptr;
                        },
                        std::addressof(body)) == 0;
  if (!made) std::abort();
  ::pthread_attr_destroy(&attributes);
  ::pthread_join(thread, nullptr);
}

}  // namespace iowq_test
