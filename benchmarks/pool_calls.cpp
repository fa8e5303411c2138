// SPDX-License-Identifier: BSL-1.0
// System calls that a pool exists for, made by another thread: with 64 in flight, and alone. Rivals
// of the pool:
// - the kernel's own io-wq, which runs the same call if IOSQE_ASYNC is set, and which needs no
//   system call of its own for it
// - the ring, where it would not punt the call
//
// The floor is the bare call in a loop on one thread. The same loop in a process that has a second
// thread, which sleeps, shows the cost of a second thread alone: to look up an open file, the
// kernel must then count a reference.
//
// The calls that block are:
// - fdatasync of a file system on a disk, with 64 workers in the pool and in io-wq
// - buffered writes to one file, which its file system serialises; so more workers only contend for
//   the file, unless the pool runs them one after the other (hashed work)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include <iowq/iowq.hpp>

#include "load.hpp"
#include "machine.hpp"
#include "ratio.hpp"
#include "raw_ring.hpp"
#include "rivals.hpp"

namespace {

constexpr unsigned depth = 64, block = 4096, blocks = 256;

/// The files that the calls use. The destructor removes them.
class files {
 public:
  files() : memory_{::memfd_create("iowq-bench", MFD_CLOEXEC)} {
    char name[] = "/var/tmp/iowq-bench-XXXXXX";  // on a disk, if the machine has one
    disk_.reset(::mkstemp(name));
    path_ = name;
    std::vector<char> const bytes(block * blocks, 'x');
    for (int const fd : {in_memory(), on_disk()})
      if (fd < 0 || ::pwrite(fd, bytes.data(), bytes.size(), 0) != block * blocks) {
        std::perror("a file of 1 MiB in memory and in /var/tmp");
        std::exit(1);
      }
    ::fsync(on_disk());
  }
  files(const files&) = delete;
  files& operator=(const files&) = delete;
  ~files() { ::unlink(path_.c_str()); }

  [[nodiscard]] int in_memory() const { return memory_.get(); }
  [[nodiscard]] int on_disk() const { return disk_.get(); }
  /// For the executor, which stores its knowledge of the file in the iowq::fd.
  [[nodiscard]] const iowq::fd& on_disk_owned() const { return disk_; }
  [[nodiscard]] const char* path() const { return path_.c_str(); }

 private:
  iowq::fd memory_, disk_;
  std::string path_;
};

const files& all_files() {
  static files const made;
  return made;
}

void must(bool good) {
  if (good) return;
  std::perror("a call of the benchmark");
  std::exit(1);
}

/// The buffer of a slot and its position in the file.
struct slot_data {
  alignas(4096) std::array<char, block> buffer;  // see await.cpp, page
  struct ::statx status;
  unsigned seed = 0;
  int fd = -1;

  off_t next_offset() {
    seed = seed * 1664525U + 1013904223U;
    return static_cast<off_t>(seed >> 8) % blocks * block;
  }
};
slot_data& data_of(unsigned slot) {
  static std::vector<slot_data> all(256);
  return all[slot];
}

// ---- The calls, each as a plain call, as an SQE, and as an await ----

struct fdatasync_in_memory {
  static constexpr const char* name = "fdatasync tmpfs";
  static constexpr bool may_be_inline = false;
  void operator()(unsigned) const { must(::fdatasync(all_files().in_memory()) == 0); }
  static void prepare(io_uring_sqe* sqe, unsigned) {
    io_uring_prep_fsync(sqe, all_files().in_memory(), IORING_FSYNC_DATASYNC);
  }
  static auto await(unsigned) {
    return iowq::on_pool(iowq::fdatasync(iowq::descriptor{all_files().in_memory()}));
  }
};

struct statx_path {
  static constexpr const char* name = "statx";
  static constexpr bool may_be_inline = false;
  void operator()(unsigned slot) const {
    must(::statx(AT_FDCWD, all_files().path(), 0, STATX_BASIC_STATS, &data_of(slot).status) == 0);
  }
  static void prepare(io_uring_sqe* sqe, unsigned slot) {
    io_uring_prep_statx(sqe, AT_FDCWD, all_files().path(), 0, STATX_BASIC_STATS,
                        &data_of(slot).status);
  }
  static auto await(unsigned) { return iowq::on_pool(iowq::stat(all_files().path())); }
};

struct open_close {
  static constexpr const char* name = "open + close";
  static constexpr bool may_be_inline = true;
  void operator()(unsigned) const {
    int const fd = ::open(all_files().path(), O_RDONLY | O_CLOEXEC);
    must(fd >= 0 && ::close(fd) == 0);
  }
  static void prepare(io_uring_sqe* sqe, unsigned slot) {
    if (int const fd = data_of(slot).fd; fd >= 0)
      io_uring_prep_close(sqe, fd);
    else
      io_uring_prep_openat(sqe, AT_FDCWD, all_files().path(), O_RDONLY | O_CLOEXEC, 0);
  }
  static bool ended(unsigned slot, int res) {
    int& fd = data_of(slot).fd;
    must(res >= 0);
    fd = fd < 0 ? res : -1;
    return fd < 0;
  }
  static auto await(unsigned slot) {
    return iowq::punt([slot] { open_close{}(slot); });
  }
};

struct cached_pread {
  static constexpr const char* name = "cached pread";
  static constexpr bool may_be_inline = true;
  void operator()(unsigned slot) const {
    slot_data& mine = data_of(slot);
    must(::pread(all_files().on_disk(), mine.buffer.data(), block, mine.next_offset()) == block);
  }
  static void prepare(io_uring_sqe* sqe, unsigned slot) {
    slot_data& mine = data_of(slot);
    io_uring_prep_read(sqe, all_files().on_disk(), mine.buffer.data(), block,
                       static_cast<std::uint64_t>(mine.next_offset()));
  }
  static auto await(unsigned slot) {
    slot_data& mine = data_of(slot);
    return iowq::on_pool(iowq::pread(all_files().on_disk_owned(), mine.buffer, mine.next_offset()));
  }
};

// ---- The measured ways ----

template <class Call>
struct plain_loop {
  ratio::tally run(std::uint64_t n) {
    for (std::uint64_t i = 0; i < n; ++i) Call{}(static_cast<unsigned>(i % depth));
    return {n};
  }
};

/// The plain loop in a process that has a second thread: the best that a thread of any pool can
/// reach.
template <class Call>
class loop_beside_a_thread {
 public:
  ratio::tally run(std::uint64_t n) { return loop_.run(n); }

 private:
  plain_loop<Call> loop_;
  std::binary_semaphore ends_{0};
  std::jthread sleeper_{[this] { ends_.acquire(); }};
  struct waker {
    std::binary_semaphore& ends;
    ~waker() { ends.release(); }
  } waker_{ends_};  // declared last, so it wakes sleeper_ before sleeper_ is joined
};

template <class Call>
class kernel_workers {
 public:
  /// `flags`: IOSQE_ASYNC, or 0 for the kernel's own choice.
  explicit kernel_workers(unsigned in_flight, unsigned flags = IOSQE_ASYNC, unsigned workers = 0)
      : ring_{in_flight}, flags_{flags} {
    if (workers != 0) ring_.max_workers(workers);
  }
  ratio::tally run(std::uint64_t n) {
    auto prepare = [this](io_uring_sqe* sqe, unsigned slot) {
      Call::prepare(sqe, slot);
      if (sqe->opcode != IORING_OP_CLOSE) sqe->flags |= static_cast<__u8>(flags_);
    };
    if constexpr (requires { Call::ended(0U, 0); })
      return ring_.run(n, prepare, Call::ended);
    else
      return ring_.run(n, prepare);
  }

 private:
  bench::raw_ring ring_;
  unsigned flags_;
};

template <class Call>
auto through_the_pool(unsigned in_flight, bench::manner how) {
  return [=] { return std::make_unique<bench::pool_load<Call>>(how, in_flight, Call{}); };
}
template <class Call>
auto through_the_executor(unsigned in_flight, iowq::pool_options options) {
  return [=] {
    auto await = [](unsigned slot) { return Call::await(slot); };
    return std::make_unique<bench::executor_load<decltype(await)>>(options, in_flight, await);
  };
}

/// Calls that do not block. Here the overhead of a pool is largest.
template <class Call>
void short_calls() {
  static constexpr std::uint64_t n = 12'800;
  std::string const row = Call::name;
  bench::add(row + "/plain loop", n, [] { return std::make_unique<plain_loop<Call>>(); });
  bench::add(row + "/plain loop, beside a thread", n,
             [] { return std::make_unique<loop_beside_a_thread<Call>>(); });
  bench::add(row + "/kernel io-wq", n,
             [] { return std::make_unique<kernel_workers<Call>>(depth); });
  if (Call::may_be_inline)
    bench::add(row + "/ring, inline", n,
               [] { return std::make_unique<kernel_workers<Call>>(depth, 0); });
  for (unsigned const workers : {1U, 2U, 4U}) {
    std::string const rival = "pool of " + std::to_string(workers);
    bench::add(row + '/' + rival, n,
               through_the_pool<Call>(depth, {.pool = bench::workers(workers)}));
    ratio::goal_rate(row, rival, 0.85, {"plain loop"});
    ratio::goal_rate(row, rival, 0.85, {"plain loop, beside a thread"});
    ratio::goal_count(row, rival, "wakes", 0.05);
    ratio::goal_count(row, rival, "kicks", 0.05);
  }
  bench::add(row + "/pool of 4, not brief", n,
             through_the_pool<Call>(depth, {.pool = bench::workers(4), .flags = {}}));
  bench::add(row + "/pool of 4, no chain", n,
             through_the_pool<Call>(depth, {.pool = bench::workers(4), .chained = false}));
  bench::add(row + "/executor", n, through_the_executor<Call>(depth, bench::workers(4)));
#if BENCH_ASIO
  bench::add(row + "/asio, 4", n,
             [] { return std::make_unique<bench::asio_pool<Call>>(4, depth, 1); });
#endif
#if BENCH_UV
  bench::add(row + "/libuv, 4", n, [] { return std::make_unique<bench::uv_pool<Call>>(depth, 1); });
#endif
  ratio::goal_rate(row, "executor", 0.85, {"plain loop"});
  ratio::goal_count(row, "executor", "wakes", 0.05);
  ratio::goal_count(row, "executor", "kicks", 0.05);
}

void alone() {
  static constexpr std::uint64_t n = 1000;
  using call = fdatasync_in_memory;
  auto const options = bench::workers(4);
  auto const no_spin = bench::without_spin(options);
  std::string const row = "fdatasync tmpfs, alone";
  bench::add(row + "/plain loop", n, [] { return std::make_unique<plain_loop<call>>(); });
  bench::add(row + "/kernel io-wq", n, [] { return std::make_unique<kernel_workers<call>>(1); });
  bench::add(row + "/pool", n, through_the_pool<call>(1, {.pool = options}));
  bench::add(row + "/pool, no spin", n, through_the_pool<call>(1, {.pool = no_spin}));
  bench::add(row + "/executor", n, through_the_executor<call>(1, options));
  bench::add(row + "/executor, no spin", n, through_the_executor<call>(1, no_spin));
  ratio::goal_time(row, "pool", 3000);
  ratio::goal_time(row, "executor", 3000);
  ratio::goal_rate(row, "pool", 1, {"pool, no spin"});
  ratio::goal_rate(row, "executor", 1, {"executor, no spin"});
}

// ---- Calls that block ----

/// A separate file on the disk for each slot.
int own_file(unsigned slot) {
  static std::vector<int> const all = [] {
    std::vector<int> made;
    for (unsigned i = 0; i < depth; ++i) {
      made.push_back(::open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
      must(made.back() >= 0 && ::pwrite(made.back(), "x", 1, 0) == 1 && ::fsync(made.back()) == 0);
    }
    return made;
  }();
  return all[slot % depth];
}

struct fdatasync_on_disk {
  static constexpr const char* name = "fdatasync disk";
  void operator()(unsigned slot) const { must(::fdatasync(own_file(slot)) == 0); }
  static void prepare(io_uring_sqe* sqe, unsigned slot) {
    io_uring_prep_fsync(sqe, own_file(slot), IORING_FSYNC_DATASYNC);
  }
  static auto await(unsigned slot) { return iowq::fdatasync(iowq::descriptor{own_file(slot)}); }
};

void syncs() {
  using call = fdatasync_on_disk;
  static constexpr std::uint64_t n = 1280;
  static constexpr unsigned workers = 64;
  std::string const row = call::name;
  bench::add(row + "/plain loop", n / 4, [] { return std::make_unique<plain_loop<call>>(); });
  bench::add(row + "/kernel io-wq, 64", n,
             [] { return std::make_unique<kernel_workers<call>>(depth, IOSQE_ASYNC, workers); });
  bench::add(row + "/pool of 64", n,
             through_the_pool<call>(depth, {.pool = bench::workers(workers), .flags = {}}));
  bench::add(row + "/executor, 64", n, through_the_executor<call>(depth, bench::workers(workers)));
  ratio::goal_rate(row, "pool of 64", 0.8, {"kernel io-wq, 64"});
  ratio::goal_rate(row, "executor, 64", 0.8, {"kernel io-wq, 64"});
}

struct write_one_file {
  static constexpr const char* name = "write one file";
  void operator()(unsigned slot) const {
    slot_data& mine = data_of(slot);
    must(::pwrite(all_files().on_disk(), mine.buffer.data(), block, mine.next_offset()) == block);
  }
  static void prepare(io_uring_sqe* sqe, unsigned slot) {
    slot_data& mine = data_of(slot);
    io_uring_prep_write(sqe, all_files().on_disk(), mine.buffer.data(), block,
                        static_cast<std::uint64_t>(mine.next_offset()));
  }
  static auto await(unsigned slot) {
    slot_data& mine = data_of(slot);
    return iowq::pwrite(all_files().on_disk_owned(), mine.buffer, mine.next_offset());
  }
};

void writes() {
  using call = write_one_file;
  static constexpr std::uint64_t n = 6400;
  std::string const row = call::name;
  bench::add(row + "/plain loop", n, [] { return std::make_unique<plain_loop<call>>(); });
  bench::add(row + "/kernel io-wq", n,
             [] { return std::make_unique<kernel_workers<call>>(depth); });
  for (unsigned const workers : {1U, 2U, 4U, 16U}) {
    std::string const rival = "hashed, pool of " + std::to_string(workers);
    bench::add(
        row + '/' + rival, n,
        through_the_pool<call>(depth, {.pool = bench::workers(workers), .flags = {.key = 1}}));
    if (workers > 1) ratio::goal_rate(row, rival, 0.95, {"hashed, pool of 1"});
  }
  bench::add(row + "/executor", n, through_the_executor<call>(depth, bench::workers(16)));
  bench::add(row + "/unhashed, pool of 16", n,
             through_the_pool<call>(depth, {.pool = bench::workers(16), .flags = {}}));
}

}  // namespace

int main(int argc, char** argv) {
  bench::uv_workers(4);
  short_calls<fdatasync_in_memory>();
  short_calls<statx_path>();
  short_calls<open_close>();
  short_calls<cached_pread>();
  alone();
  syncs();
  writes();
  bench::print_who_is_missing();
  return ratio::main(argc, argv);
}
