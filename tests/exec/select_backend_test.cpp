// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/detail/select_backend.hpp>  // first and alone

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/op/connect_to.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/time.hpp>

#include "death.hpp"
#include "pids_group.hpp"
#include "skip.hpp"
#include "ways.hpp"

namespace {
using iowq::backend_kind;
using iowq::executor;
using iowq::task;
using iowq_test::demand;

/// Takes descriptors until there is none, and gives some back.
task<> run_out_of_descriptors() {
  iowq::fd listener = co_await iowq::listen_on(iowq::endpoint::ip("127.0.0.1", 0));
  auto const where = iowq::endpoint::local_of(listener.get());
  std::vector<iowq::fd> taken;
  for (;;) {
    auto made = co_await iowq::as_result(iowq::socket(AF_INET, SOCK_STREAM));
    if (!made) {
      demand(made.error() == std::errc::too_many_files_open, "socket: EMFILE");
      break;
    }
    taken.push_back(std::move(*made));
  }
  demand(taken.size() > 2, "some descriptors are left for the program");
  co_await iowq::connect(taken.back(), where);
  auto const refused = co_await iowq::as_result(iowq::accept(listener));
  demand(refused.error() == std::errc::too_many_files_open, "accept: EMFILE");
  taken.erase(taken.begin());
  iowq::fd const peer = co_await iowq::accept(listener);  // it was not lost
  demand(co_await iowq::send(peer, "x") == 1, "and can be used");
}

/// The pool has no thread to begin with; what needs none goes on.
task<> run_out_of_threads() {
  auto const call = [] { return 1; };
  auto punted = iowq::punt(call);
  std::error_code error;
  try {
    co_await punted;
  } catch (const std::system_error& thrown) {
    error = thrown.code();
  }
  demand(error == std::errc::resource_unavailable_try_again, "punt: EAGAIN");
  int ends[2];
  demand(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "a socket pair");
  iowq::fd const here{ends[0]}, there{ends[1]};
  demand(co_await iowq::send(here, "x") == 1, "send");
  char byte;
  demand(co_await iowq::recv(there, iowq::mutable_bytes{&byte, 1}) == 1, "recv");
  co_await iowq::sleep_for(std::chrono::microseconds{1});
}

/// One thread for the pool's manager, one for a worker.
task<> share_one_worker(int& left) {
  auto const call = [&left] { return --left; };
  auto punted = iowq::punt(call);
  co_await punted;
}
task<> share_all(int& left, int count) {
  for (int i = 0; i < count; ++i) iowq::executor::current().spawn(share_one_worker(left));
  co_return;
}

/// The kernel finds no thread for a worker of its own; the pool has one by then.
task<> be_dropped_by_the_kernel() {
  iowq_test::scratch here;
  iowq::fd file = co_await iowq::open(here / "file", O_RDWR | O_CREAT, 0600);
  co_await iowq_test::as(iowq_test::way::ring, iowq::fsync(file));
  co_await iowq::close(std::move(file));
}

/// A user of whom there is no other process, so that RLIMIT_NPROC counts ours only.
void become_somebody_with(rlim_t threads) {
  rlimit const limit{threads, threads};
  demand(::setrlimit(RLIMIT_NPROC, &limit) == 0, "setrlimit");
  demand(::setresuid(61'234, 61'234, 61'234) == 0, "setresuid");
}

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

TEST_SUITE("exec/select_backend") {
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

  TEST_CASE("hazard-45: out of descriptors is an error of the call, and nothing is lost by it") {
    auto const end = iowq_test::death_output([] {
      rlimit const few{20, 20};
      ::setrlimit(RLIMIT_NOFILE, &few);
      iowq::run(run_out_of_descriptors());
    });
    CAPTURE(end.text);
    CHECK(end.survived());
  }

  TEST_CASE(
      "hazard-49: without a thread to be had only what needs one fails; with one all is done") {
    if (::getuid() != 0) SKIP_CASE("only root can become somebody else");
    auto const none = iowq_test::death_output([] {
      become_somebody_with(1);
      iowq::run(run_out_of_threads());
    });
    CAPTURE(none.text);
    CHECK(none.survived());
    auto const one = iowq_test::death_output([] {
      become_somebody_with(3 + IOWQ_TSAN);  // which has a thread of its own
      int left = 100;
      iowq::run(share_all(left, 100));
      demand(left == 0, "each ran once");
    });
    CAPTURE(one.text);
    CHECK(one.survived());
  }

  TEST_CASE("hazard-49: in a cgroup that has no thread left, and in one with room for a worker") {
    for (int const threads : {1, 3 + IOWQ_TSAN}) {
      iowq_test::pids_group group{threads};
      if (!group) SKIP_CASE(group.why_not());
      auto const end = iowq_test::death_output([&] {
        group.enter();
        if (threads == 1) return iowq::run(run_out_of_threads());
        int left = 100;
        iowq::run(share_all(left, 100));
        demand(left == 0, "each ran once");
        iowq::run(be_dropped_by_the_kernel());
      });
      CAPTURE(threads);
      CAPTURE(end.text);
      CHECK(end.survived());
    }
  }

  TEST_CASE("only a refusal is a reason to do without a ring") {
    using iowq::detail::is_refusal;
    for (int const error : {EPERM, EACCES, ENOSYS, ENOMEM}) CHECK(is_refusal(-error));
    for (int const error : {EMFILE, ENFILE, EINVAL, EFAULT}) CHECK_FALSE(is_refusal(-error));
    auto const why = iowq::detail::explain_ring_failure(-EPERM);
    CHECK(why.find("io_uring_setup: EPERM (") == 0);
  }
}
