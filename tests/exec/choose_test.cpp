// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/choose.hpp>  // first and alone

#include <stdlib.h>

#include <string>

#include <doctest/doctest.h>

#include <iowq/exec/run.hpp>

#include "death.hpp"
#include "ways.hpp"

namespace {
using iowq::backend_kind;
using iowq::executor;

/// IOWQ_BACKEND, as it was afterwards.
class environment {
 public:
  explicit environment(const char* word) {
    if (const char* const set = ::getenv("IOWQ_BACKEND")) before_ = set;
    word != nullptr ? ::setenv("IOWQ_BACKEND", word, 1) : ::unsetenv("IOWQ_BACKEND");
  }
  environment(const environment&) = delete;
  environment& operator=(const environment&) = delete;
  ~environment() {
    before_.empty() ? ::unsetenv("IOWQ_BACKEND") : ::setenv("IOWQ_BACKEND", before_.c_str(), 1);
  }

 private:
  std::string before_;
};
}  // namespace

TEST_SUITE("exec/choose") {
  TEST_CASE("the program's choice, then the environment's; what either forbids is not tried") {
    {
      environment const set{"poll"};
      executor here;
      CHECK(here.backend() == backend_kind::poll);
      CHECK(here.backend_reason() == "IOWQ_BACKEND=poll");
      CHECK_THROWS_AS(executor{{.backend = backend_kind::io_uring}}, std::system_error);
    }
    {
      environment const set{nullptr};
      executor here{{.backend = backend_kind::poll}};
      CHECK(here.backend() == backend_kind::poll);
      CHECK(here.backend_reason() == "backend_kind::poll");
    }
    environment const typed{"pol"};
    CHECK_THROWS_AS(executor{}, std::system_error);
  }

  TEST_CASE("only a refusal is a reason to do without a ring") {
    using iowq::detail::is_refusal;
    for (int const error : {EPERM, EACCES, ENOSYS, ENOMEM}) CHECK(is_refusal(-error));
    for (int const error : {EMFILE, ENFILE, EINVAL, EFAULT}) CHECK_FALSE(is_refusal(-error));
    auto const why = iowq::detail::explain_ring_failure(-EPERM);
    CHECK(why.find("io_uring_setup: EPERM (") == 0);
  }
}
