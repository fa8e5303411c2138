// SPDX-License-Identifier: BSL-1.0
// Checks for leaks: everything that a case opens, starts or creates is gone when the case ends.
//
//     TEST_CASE("...") {
//       iowq_test::leak_check books;               // first, so that it closes last
//       iowq_test::counted::reset();
//       ...
//     }
#pragma once

#include <dirent.h>
#include <poll.h>

#include <atomic>
#include <ctime>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace iowq_test {

/// Counts the entries of a directory of /proc/self. Both directories are read in the same way, so
/// the descriptor opened for reading cancels out.
inline int count_entries(const char* directory) {
  DIR* dir = ::opendir(directory);
  REQUIRE(dir != nullptr);
  int entries = 0;
  while (const dirent* entry = ::readdir(dir)) entries += entry->d_name[0] != '.';
  ::closedir(dir);
  return entries;
}

inline int open_descriptors() { return count_entries("/proc/self/fd"); }

/// The names of this process's threads, without the kernel's. Before Linux 6.4 a pipe, and on any
/// kernel an on_ring() that would block, makes io_uring start its own worker, which stays for some
/// seconds.
inline std::vector<std::string> thread_names() {
  DIR* dir = ::opendir("/proc/self/task");
  REQUIRE(dir != nullptr);
  std::vector<std::string> ours;
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    std::string name;
    std::getline(std::ifstream{std::string{"/proc/self/task/"} + entry->d_name + "/comm"}, name);
    bool const is_gone = name.empty();  // the thread ended after it was listed
    if (!is_gone && !name.starts_with("iou-")) ours.push_back(name);
  }
  ::closedir(dir);
  return ours;
}
inline int threads() { return static_cast<int>(thread_names().size()); }

/// Polls `holds()` each millisecond for at most `seconds`. For states that only /proc can show,
/// such as that a joined thread or a kernel thread has really gone. For all other waits use a
/// latch.
template <class Condition>
bool within(int seconds, Condition holds) {
  for (int tick = 0; tick < seconds * 1000; ++tick) {
    if (holds()) return true;
    const timespec millisecond{0, 1'000'000};
    ::ppoll(nullptr, 0, &millisecond, nullptr);
  }
  return holds();
}

/// Checks at the end of its scope that the process has as many descriptors and threads as at its
/// start.
class leak_check {
 public:
  leak_check() = default;
  leak_check(const leak_check&) = delete;
  leak_check& operator=(const leak_check&) = delete;

  ~leak_check() {
    std::vector<std::string> left;
    within(5, [&] {  // a joined thread disappears from /proc later
      left = thread_names();
      return static_cast<int>(left.size()) <= threads_;
    });
    std::string names;
    for (const std::string& name : left) names += name + ' ';
    CAPTURE(names);
    // Does not count again: a kernel worker has the program's name until it first runs.
    CHECK(static_cast<int>(left.size()) <= threads_);  // fewer: a thread joined earlier is gone
    within(1, [this] { return open_descriptors() <= descriptors_; });
    CHECK(open_descriptors() == descriptors_);
  }

 private:
  const int descriptors_ = open_descriptors();
  const int threads_ = threads();
};

/// Counts its instances, including moved-from ones: at the end `created() == destroyed()`.
class counted {
 public:
  explicit counted(int number = 0) : value(number) { ++created_; }
  counted(const counted& other) : value(other.value) { ++created_, ++copied_; }
  counted(counted&& other) noexcept : value(other.value) { ++created_; }
  counted& operator=(const counted&) = default;
  counted& operator=(counted&&) = default;
  ~counted() { ++destroyed_; }

  static void reset() { created_ = destroyed_ = copied_ = 0; }
  static int created() { return created_; }
  static int destroyed() { return destroyed_; }
  static int copied() { return copied_; }
  static int alive() { return created_ - destroyed_; }

  int value;

 private:
  static inline std::atomic<int> created_{}, destroyed_{}, copied_{};
};

}  // namespace iowq_test
