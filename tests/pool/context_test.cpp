// SPDX-License-Identifier: BSL-1.0
// What workers inherit from their owner (wq.md section 9), and signals. Owners here are threads
// of their own: what they change dies with them.
#include <iowq/pool/pool.hpp>

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cfenv>
#include <cstddef>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/base/fd.hpp>

#include "death.hpp"
#include "jobs.hpp"
#include "leak_check.hpp"
#include "skip.hpp"

namespace {
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;

/// The context of the calling thread, as it sees it.
struct context {
  iowq::cpu_set affinity;
  int nice = 0;
  int policy = 0;
  int timer_slack = 0;
  int filesystem_user = 0;
  int no_new_privileges = 0;
  long io_priority = 0;
  int memory_policy = -1;
  int rounding = 0;
  int table = 0;  // of descriptors: whether number 900 is open in it
  std::array<char, 64> network{}, host_name{};
  std::array<char, 32> capabilities{}, file_mode{};
  std::array<char, 4096> directory{};
  bool filtered = false;

  static context mine() {
    context found;
    cpu_set_t cpus;
    iowq::detail::linux_policy::affinity(cpus);
    found.affinity = iowq::cpu_set{cpus};
    found.nice = ::getpriority(PRIO_PROCESS, 0);
    found.policy = ::sched_getscheduler(0);
    found.timer_slack = ::prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    found.filesystem_user = ::setfsuid(static_cast<uid_t>(-1));
    found.no_new_privileges = ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    found.io_priority = ::syscall(SYS_ioprio_get, 1, 0);
    (void)::syscall(SYS_get_mempolicy, &found.memory_policy, nullptr, 0, nullptr, 0);
    found.rounding = std::fegetround();
    found.table = ::fcntl(900, F_GETFD);
    (void)::readlink("/proc/thread-self/ns/net", found.network.data(), found.network.size());
    (void)::readlink("/proc/thread-self/ns/uts", found.host_name.data(), found.host_name.size());
    std::ifstream status{"/proc/thread-self/status"};
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("CapEff:")) line.copy(found.capabilities.data(), 31);
      if (line.starts_with("Umask:")) line.copy(found.file_mode.data(), 31);
    }
    if (::getcwd(found.directory.data(), found.directory.size()) == nullptr) found.directory[0] = 0;
    ::syscall(SYS_getcpu, nullptr, nullptr, nullptr);
    found.filtered = ::syscall(SYS_personality, 0xffffffff) < 0;
    return found;
  }
  friend bool operator==(const context&, const context&) = default;
};

/// The context in which `pool` runs an item now.
context on_worker(iowq::pool& pool) {
  context seen;
  job look{[&](const iowq::stop_token&) { seen = context::mine(); }};
  pool.enqueue(look);
  if (!look.wait()) seen.nice = 1000;
  return seen;
}

/// A cpuset of its own, in either version of cgroups, gone with this object.
class cpuset {
 public:
  explicit cpuset(const std::string& name) {
    for (std::string const root : {"/sys/fs/cgroup/cpuset/", "/sys/fs/cgroup/"}) {
      std::string const path = root + name;
      if (::mkdir(path.c_str(), 0755) != 0) continue;
      path_ = path;
      write("cpuset.mems", "0");
      if (allow("0-1")) return;
      ::rmdir(path.c_str());
      path_.clear();
    }
  }
  cpuset(const cpuset&) = delete;
  cpuset& operator=(const cpuset&) = delete;
  ~cpuset() {
    if (path_.empty()) return;
    // Empty as soon as the kernel is through with the process that was in it.
    CHECK(eventually([&] { return ::rmdir(path_.c_str()) == 0; }));
  }
  [[nodiscard]] bool usable() const { return !path_.empty(); }
  /// The calling process moves in.
  [[nodiscard]] bool join() const { return write("cgroup.procs", std::to_string(::getpid())); }
  [[nodiscard]] bool allow(const std::string& cpus) const { return write("cpuset.cpus", cpus); }

 private:
  bool write(const char* file, const std::string& text) const {
    iowq::fd const to{::open((path_ + "/" + file).c_str(), O_WRONLY | O_CLOEXEC)};
    return to && ::write(to.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  }
  std::string path_;
};

/// From here on personality(2) fails for the calling thread, and what it forks.
bool install_filter() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_personality, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog const filter{4, program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0;
}
}  // namespace

TEST_SUITE("pool/context") {
  TEST_CASE("wq-52, wq-53: workers match the owner when made, and again after context_changed()") {
    std::thread owner{[] {
      context const before = context::mine();
      // One node: a worker of one among others keeps to its processors.
      iowq::pool pool{{.nodes = iowq::topology::of({before.affinity}),
                       .check_context = iowq::context_check_mode::off}};
      CHECK(on_worker(pool) == before);
      unsigned first = 0;
      while (!before.affinity.contains(first)) ++first;
      iowq::detail::linux_policy::set_affinity(iowq::cpu_set{first}.native());
      ::setpriority(PRIO_PROCESS, 0, before.nice + 1);
      ::prctl(PR_SET_TIMERSLACK, 123'456, 0, 0, 0);
      if (::unshare(CLONE_FS) == 0) {
        CHECK(::chdir("/") == 0);
        ::umask(0123);
      }
      if (::unshare(CLONE_FILES) == 0) CHECK(::dup2(STDERR_FILENO, 900) == 900);
      ::syscall(SYS_ioprio_set, 1, 0, (2 << 13) | 7);  // best effort, the last
      ::syscall(SYS_set_mempolicy, 4, nullptr, 0);     // MPOL_LOCAL
      std::fesetround(FE_UPWARD);
      if (::geteuid() == 0) {
        (void)::unshare(CLONE_NEWNET);  // where this is forbidden it stays the same for all
        (void)::unshare(CLONE_NEWUTS);
        ::setfsuid(65534);
        __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
        __user_cap_data_struct none[2]{};
        CHECK(::syscall(SYS_capset, &header, none) == 0);
      }
      context const after = context::mine();
      CHECK_FALSE(after == before);
      CHECK(on_worker(pool) == before);  // an older worker keeps the old one
      pool.context_changed();
      CHECK(on_worker(pool) == after);
      gate all_here;
      jobs many;
      std::vector<context> seen(4);
      iowq_test::counter met;
      for (std::size_t i = 0; i < 4; ++i)
        many.add(
            [&, i](const iowq::stop_token&) {
              seen[i] = context::mine();
              met.add();
              (void)met.wait_for(4);
            },
            {.unbound = i % 2 == 0, .concurrent = true});
      many.enqueue_all(pool);
      CHECK(many.wait_all());
      for (const context& one : seen) CHECK(one == after);
    }};
    owner.join();
  }

  TEST_CASE("wq-52, wq-53: workers on several nodes keep to the owner's processors") {
    cpu_set_t cpus;
    REQUIRE(iowq::detail::linux_policy::affinity(cpus));
    iowq::cpu_set const all{cpus};
    if (all.count() < 2) SKIP_CASE("there is one processor only");
    std::thread owner{[&] {
      unsigned first = 0;
      while (!all.contains(first)) ++first;
      unsigned second = first + 1;
      while (!all.contains(second)) ++second;
      iowq::pool pool{{.nodes = iowq::topology::of({{first, second}, {first, second}})}};
      CHECK(on_worker(pool).affinity == (all & iowq::cpu_set{first, second}));
      iowq::detail::linux_policy::set_affinity(iowq::cpu_set{second}.native());
      pool.context_changed();
      CHECK(on_worker(pool).affinity == iowq::cpu_set{second});
      pool.set_affinity({first});  // what it was told it keeps
      CHECK(on_worker(pool).affinity == iowq::cpu_set{first});
      pool.context_changed();
      CHECK(on_worker(pool).affinity == iowq::cpu_set{first});
    }};
    owner.join();
  }

  TEST_CASE("wq-61: a pool still works when its cpuset shrinks to one node's processors, or less") {
    cpuset group{"iowq-test-" + std::to_string(::getpid())};
    if (!group.usable()) SKIP_CASE("no cpuset with processors 0 and 1 can be made");
    if (iowq::cpu_set::of_caller<iowq::detail::linux_policy>().count() < 2)
      SKIP_CASE("there is one processor only");
    auto const end = iowq_test::death_output([&] {
      if (!group.join() || !group.allow("0-1")) ::_exit(2);
      iowq::pool pool{{.max_workers = {2, 2}, .nodes = iowq::topology::of({{0}, {1}})}};
      auto run_on = [&pool](int node) {
        iowq::cpu_set seen;
        job look{[&](const iowq::stop_token&) {
                   seen = iowq::cpu_set::of_caller<iowq::detail::linux_policy>();
                 },
                 {.unbound = node == 1, .node = node}};
        pool.enqueue(look);
        return look.wait() ? seen : iowq::cpu_set{};
      };
      if (run_on(1) != iowq::cpu_set{1}) ::_exit(3);
      if (!group.allow("0")) ::_exit(4);
      if (run_on(1) != iowq::cpu_set{0}) ::_exit(5);  // its worker was moved, and works
      pool.context_changed();
      if (run_on(1) != iowq::cpu_set{0}) ::_exit(6);  // a new one, whose node has nothing left
      if (run_on(0) != iowq::cpu_set{0}) ::_exit(7);
      if (!group.allow("0-1")) ::_exit(8);
      pool.context_changed();
      ::_exit(run_on(1) != iowq::cpu_set{} ? 0 : 9);
    });
    CHECK(end.exit_code == 0);
    CHECK(end.signal == 0);
  }

  TEST_CASE("wq-54: after the change no item runs on an old worker, even if it is busy") {
    std::thread owner{[] {
      iowq_test::leak_check books;
      iowq::pool pool;
      gate hold;
      std::atomic<int> old_worker{0};
      job busy{[&](const iowq::stop_token&) {
        old_worker = iowq::detail::linux_policy::thread_id();
        (void)hold.wait();
      }};
      job waits{{}, {.key = 1}};
      pool.enqueue(busy);
      REQUIRE(busy.wait_started());
      pool.context_changed();
      std::atomic<int> on_old{0};
      jobs later;
      for (int i = 0; i < 50; ++i)
        later.add([&](const iowq::stop_token&) {
          if (iowq::detail::linux_policy::thread_id() == old_worker) on_old.fetch_add(1);
        });
      later.enqueue_all(pool);
      CHECK(later.wait_all());  // the old worker is still in its item
      CHECK(busy.ends() == 0);
      CHECK(on_old == 0);
      hold.open();
      CHECK(busy.wait());
      CHECK(eventually([&] { return iowq_test::quiet(pool); }));
      CHECK(pool.stats().bound.workers == 1);
    }};
    owner.join();
  }

  TEST_CASE("wq-53: no worker of the old context continues a chain") {
    std::thread owner{[] {
      iowq::pool pool;
      gate hold;
      std::vector<int> ran_on;
      jobs all;
      all.add(
          [&](const iowq::stop_token&) {
            ran_on.push_back(iowq::detail::linux_policy::thread_id());
            (void)hold.wait();
          },
          {.key = 1});
      for (int i = 0; i < 5; ++i)
        all.add(
            [&](const iowq::stop_token&) {
              ran_on.push_back(iowq::detail::linux_policy::thread_id());
            },
            {.key = 1});
      all.enqueue_all(pool);
      REQUIRE(all[0].wait_started());
      pool.context_changed();
      hold.open();
      REQUIRE(all.wait_all());
      REQUIRE(ran_on.size() == 6);
      for (std::size_t i = 1; i < 6; ++i) CHECK(ran_on[i] != ran_on[0]);
    }};
    owner.join();
  }

  TEST_CASE("wq-55: a seccomp filter applies to every item enqueued after the change") {
    std::thread owner{[] {
      iowq::pool pool;
      CHECK_FALSE(on_worker(pool).filtered);
      if (!install_filter()) SKIP_CASE("no seccomp filter can be installed");
      REQUIRE(context::mine().filtered);
      pool.context_changed();
      for (int i = 0; i < 20; ++i) CHECK(on_worker(pool).filtered);
    }};
    owner.join();
  }

  TEST_CASE("wq-55: no item enqueued after the change has a dropped capability") {
    if (::geteuid() != 0) SKIP_CASE("capabilities to drop need root");
    std::thread owner{[] {
      iowq::pool pool{{.check_context = iowq::context_check_mode::off}};
      auto on_it = [&pool] {
        int error = -1;
        job look{[&](const iowq::stop_token&) { error = ::chroot("/") == 0 ? 0 : errno; }};
        pool.enqueue(look);
        CHECK(look.wait());
        return error;
      };
      int const before = on_it();
      __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
      __user_cap_data_struct none[2]{};
      CHECK(::syscall(SYS_capset, &header, none) == 0);
      CHECK(on_it() == before);  // an older worker keeps it
      pool.context_changed();
      for (int i = 0; i < 20; ++i) CHECK(on_it() == EPERM);
    }};
    owner.join();
  }

  TEST_CASE("context changes race with enqueuing from elsewhere, and nothing is lost") {
    iowq_test::leak_check books;
    jobs all;
    constexpr int items = 20'000;
    for (int i = 0; i < items; ++i) {
      iowq::work_flags flags{.unbound = i % 2 == 0};
      if (i % 3 == 0) flags.key = 1;
      all.add({}, flags);
    }
    iowq::pool pool{{.idle_timeout = std::chrono::milliseconds{0}}};
    std::atomic<bool> over{false};
    std::jthread enqueuer{[&] {
      all.enqueue_all(pool);
      over = true;
    }};
    for (int i = 0; i < 50 || !over; ++i) pool.context_changed();
    CHECK(all.wait_all());
    int ran = 0;
    for (auto& one : all) ran += one->starts();
    CHECK(ran == items);
  }

  TEST_CASE("wq-56: setuid() by the owner completes: its signal is not blocked in workers") {
    iowq::pool pool;
    gate hold;
    job busy{[&](const iowq::stop_token&) { (void)hold.wait(); }};
    pool.enqueue(busy);
    REQUIRE(busy.wait_started());
    CHECK(::setuid(::getuid()) == 0);  // glibc tells every thread, and waits for each
    hold.open();
    CHECK(busy.wait());
  }

  TEST_CASE("wq-57: workers block what a process may be sent; it lands elsewhere") {
    static std::atomic<int> landed_on;
    landed_on = 0;
    struct sigaction note{}, before{};
    note.sa_handler = [](int) { landed_on = iowq::detail::linux_policy::thread_id(); };
    ::sigaction(SIGUSR1, &note, &before);
    {
      iowq::pool pool;
      std::vector<int> unblocked;
      int worker = 0;
      job look{[&](const iowq::stop_token&) {
        worker = iowq::detail::linux_policy::thread_id();
        sigset_t mask;
        ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
        for (int number = 1; number < 32; ++number)
          if (number != SIGKILL && number != SIGSTOP && ::sigismember(&mask, number) == 0)
            unblocked.push_back(number);
      }};
      pool.enqueue(look);
      REQUIRE(look.wait());
      std::vector<int> expected{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
      std::sort(expected.begin(), expected.end());
      CHECK(unblocked == expected);
      ::kill(::getpid(), SIGUSR1);
      CHECK(eventually([] { return landed_on != 0; }));
      CHECK(landed_on != worker);
    }
    ::sigaction(SIGUSR1, &before, nullptr);
  }

  TEST_CASE("wq-58: a fault in a worker reaches the handler that is installed") {
    static char* page;
    static std::atomic<int> faulted_on;
    static std::size_t const size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    faulted_on = 0;
    page = static_cast<char*>(::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(page != MAP_FAILED);
    struct sigaction mend{}, before{};
    mend.sa_handler = [](int) {
      faulted_on = iowq::detail::linux_policy::thread_id();
      ::mprotect(page, size, PROT_READ | PROT_WRITE);
    };
    ::sigaction(SIGSEGV, &mend, &before);
    {
      iowq::pool pool;
      int worker = 0;
      job faults{[&](const iowq::stop_token&) {
        worker = iowq::detail::linux_policy::thread_id();
        *static_cast<volatile char*>(page) = 1;
      }};
      pool.enqueue(faults);
      CHECK(faults.wait());
      CHECK(faulted_on == worker);
    }
    ::sigaction(SIGSEGV, &before, nullptr);
    ::munmap(page, size);
  }
}
