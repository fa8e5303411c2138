// SPDX-License-Identifier: BSL-1.0
// An owner that changes its context and does not say so is told. Owners here are threads of their
// own: what they change dies with them.
#include <iowq/pool/pool.hpp>

#include <linux/capability.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "death.hpp"
#include "jobs.hpp"
#include "skip.hpp"

namespace {
using iowq::context_check_mode;
using iowq_test::job;

void enqueue_one(iowq::pool& pool) {
  job one;
  pool.enqueue(one);
  CHECK(one.wait());
}

/// A pool whose reports are kept.
struct watched {
  explicit watched(context_check_mode check = context_check_mode::always)
      : pool{{.check_context = check, .on_context_mismatch = [this](std::string_view report) {
                reports.emplace_back(report);
              }}} {}

  [[nodiscard]] bool said(std::string_view words) const {
    return reports.size() == 1 && reports[0].find(words) != std::string::npos;
  }

  std::vector<std::string> reports;
  iowq::pool pool;
};

bool drop_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2]{};
  return ::syscall(SYS_capset, &header, none) == 0;
}

/// The calling thread makes `change` with a pool at hand and enqueues an item before and after.
/// False: the change is not permitted here.
template <class Change, class Then>
bool on_an_owner(Change change, Then then) {
  bool done = false;
  std::thread owner{[&] {
    watched it;
    enqueue_one(it.pool);
    CHECK(it.reports.empty());
    done = change();
    if (!done) return;
    enqueue_one(it.pool);
    then(it);
  }};
  owner.join();
  return done;
}
}  // namespace

TEST_SUITE("pool/context_check") {
  TEST_CASE("an owner in another directory than its workers is told both, and the remedy, once") {
    auto const change = [] { return ::unshare(CLONE_FS) == 0 && ::chdir("/proc") == 0; };
    bool const done = on_an_owner(change, [](watched& it) {
      CHECK(it.said("working directory: /proc, its workers' /"));
      CHECK(it.said("context_changed()"));
      CHECK_FALSE(it.said("namespace"));
      CHECK_FALSE(it.said("ids"));
      CHECK_FALSE(it.said("capabilities"));
      enqueue_one(it.pool);
      CHECK(it.reports.size() == 1);
    });
    CHECK(done);  // needs no privilege
  }

  TEST_CASE("the report names a change of one thread: the file system's user") {
    if (::geteuid() != 0) SKIP_CASE("setfsuid() to another user needs root");
    bool const done = on_an_owner(
        [] {
          ::setfsuid(65534);
          return ::setfsuid(static_cast<uid_t>(-1)) == 65534;
        },
        [](watched& it) {
          CHECK(it.said("user ids"));
          CHECK(it.said(" 65534, its workers' "));
        });
    CHECK(done);
  }

  TEST_CASE("the report names a change of one thread: capabilities") {
    if (::geteuid() != 0) SKIP_CASE("capabilities to drop need root");
    bool const done = on_an_owner(drop_capabilities, [](watched& it) {
      CHECK(it.said("effective capabilities: 0000000000000000, its workers' "));
    });
    CHECK(done);
  }

  TEST_CASE("the report names a change of one thread: no_new_privs and the umask") {
    bool const done = on_an_owner(
        [] {
          if (::unshare(CLONE_FS) != 0) return false;
          ::umask(0123);
          return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
        },
        [](watched& it) {
          CHECK(it.said("no_new_privs: 1, its workers' 0"));
          CHECK(it.said("umask: 0123, its workers' "));
        });
    CHECK(done);
  }

  TEST_CASE("the report names a change of one thread: namespaces") {
    struct {
      int flag;
      const char* name;
    } const spaces[] = {{CLONE_NEWNET, "network namespace: net:["},
                        {CLONE_NEWNS, "mount namespace: mnt:["},
                        {CLONE_NEWUTS, "UTS namespace: uts:["},
                        {CLONE_NEWIPC, "IPC namespace: ipc:["}};
    for (auto const& space : spaces) {
      CAPTURE(space.name);
      bool const done = on_an_owner([&] { return ::unshare(space.flag) == 0; },
                                    [&](watched& it) { CHECK(it.said(space.name)); });
      if (!done) SKIP_CASE("unshare() of namespaces is not permitted");
    }
  }

  TEST_CASE("a call of context_changed() after the change prevents the report") {
    bool const done =
        on_an_owner([] { return true; },
                    [](watched& it) {
                      CHECK(::unshare(CLONE_FS) == 0);
                      CHECK(::chdir("/proc") == 0);
                      it.pool.context_changed();
                      enqueue_one(it.pool);
                      CHECK(it.reports.empty());
                      CHECK(::unshare(CLONE_FS) == 0);  // and who forgets it the next time is
                      CHECK(::chdir("/") == 0);
                      enqueue_one(it.pool);
                      CHECK(it.said("working directory: /, its workers' /proc"));
                    });
    CHECK(done);
  }

  TEST_CASE("a change that all threads share is not reported") {
    std::string const before = [] {
      char text[4096];
      return std::string{::getcwd(text, sizeof text) != nullptr ? text : "/"};
    }();
    mode_t const mask = ::umask(0);
    {
      watched it;
      enqueue_one(it.pool);
      REQUIRE(::chdir("/proc") == 0);
      ::umask(0111);
      CHECK(::setuid(::getuid()) == 0);
      enqueue_one(it.pool);
      CHECK(it.reports.empty());
    }
    ::umask(mask);
    REQUIRE(::chdir(before.c_str()) == 0);
  }

  TEST_CASE("switched off, nothing is said; and only the owner's thread is looked at") {
    std::thread owner{[] {
      watched quiet{context_check_mode::off};
      watched loud;
      CHECK(::unshare(CLONE_FS) == 0);
      CHECK(::chdir("/proc") == 0);
      enqueue_one(quiet.pool);
      CHECK(quiet.reports.empty());
      std::thread other{[&] {
        if (::unshare(CLONE_FS) != 0) return;
        enqueue_one(loud.pool);
      }};
      other.join();
      CHECK(loud.reports.empty());
      enqueue_one(loud.pool);
      CHECK(loud.reports.size() == 1);
    }};
    owner.join();
  }

  TEST_CASE("the first items of a context are looked at one by one, the later ones now and then") {
    std::thread owner{[] {
      watched it{context_check_mode::sometimes};
      for (int i = 0; i < 63; ++i) enqueue_one(it.pool);
      CHECK(::unshare(CLONE_FS) == 0);
      CHECK(::chdir("/proc") == 0);
      enqueue_one(it.pool);
      CHECK(it.reports.size() == 1);
      watched later{context_check_mode::sometimes};
      for (int i = 0; i < 200; ++i) enqueue_one(later.pool);
      CHECK(::unshare(CLONE_FS) == 0);
      CHECK(::chdir("/") == 0);
      CHECK(iowq_test::eventually([&] {
        enqueue_one(later.pool);
        return later.reports.size() == 1;
      }));
    }};
    owner.join();
  }

  TEST_CASE("unasked, a debug build looks, and no other") {
#if !defined(NDEBUG) && !defined(__OPTIMIZE__)
    static constexpr std::size_t reports = 1;
#else
    static constexpr std::size_t reports = 0;
#endif
    std::thread owner{[] {
      watched it{context_check_mode::automatic};
      CHECK(::unshare(CLONE_FS) == 0);
      CHECK(::chdir("/proc") == 0);
      enqueue_one(it.pool);
      CHECK(it.reports.size() == reports);
    }};
    owner.join();
  }

  TEST_CASE("without a handler the report goes to stderr") {
    auto const died = iowq_test::death_output([] {
      iowq::pool pool{{.check_context = context_check_mode::always}};
      if (::unshare(CLONE_FS) != 0 || ::chdir("/proc") != 0) ::_exit(2);
      job one;
      pool.enqueue(one);
      ::_exit(one.wait() ? 0 : 3);
    });
    CHECK(died.survived());
    CHECK(
        died.says("iowq: the owner's context changed since this pool's workers were forked:\n"
                  "  working directory: /proc, its workers' "));
  }

  TEST_CASE("a field of /proc/.../status is found at the beginning of a line, and trimmed") {
    using iowq::detail::status_field;
    char const text[] =
        "Name:\tUid:\nUid:\t1\t2\nGroups:\t4 24 \nSeccomp:\t0\nSeccomp_filters:\t3\n";
    CHECK(status_field(text, "\nUid:") == "1\t2");
    CHECK(status_field(text, "\nGroups:") == "4 24");
    CHECK(status_field(text, "\nSeccomp:") == "0");
    CHECK(status_field(text, "\nSeccomp_filters:") == "3");
    CHECK(status_field(text, "\nNoNewPrivs:").empty());
  }
}
