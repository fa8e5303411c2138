// SPDX-License-Identifier: BSL-1.0
// A cgroup that limits the number of threads, for a child process to move into. Creating one
// requires a writable cgroup hierarchy: root has it on most machines, and in the virtual machines
// of tests/vm.
//
//     iowq_test::pids_group few{3};
//     if (!few) SKIP_CASE(few.why_not());
//     const auto end = iowq_test::death_output([&] { few.enter(); ... });
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include <doctest/doctest.h>

#include "leak_check.hpp"

namespace iowq_test {

class pids_group {
 public:
  explicit pids_group(int threads) {
    std::string const parent = ours();
    if (parent.empty()) {
      why_not_ = "no pids cgroup is mounted where they usually are";
      return;
    }
    // Version 2 enforces the limit only if the controller is enabled. Enabling it twice does no
    // harm.
    std::string const control = parent + "/cgroup.subtree_control";
    if (::access(control.c_str(), F_OK) == 0 && !write(control, "+pids")) return;
    static int number = 0;
    std::string const path =
        parent + "/iowq-test-" + std::to_string(::getpid()) + '-' + std::to_string(++number);
    if (::mkdir(path.c_str(), 0755) != 0) {
      why_not_ = path + ": " + std::strerror(errno);
      return;
    }
    path_ = path;
    write(path_ + "/pids.max", std::to_string(threads));
  }
  pids_group(const pids_group&) = delete;
  pids_group& operator=(const pids_group&) = delete;
  /// All processes of the group have been waited for. The kernel may need some time to remove them
  /// from it.
  ~pids_group() {
    if (!path_.empty()) CHECK(within(10, [&] { return ::rmdir(path_.c_str()) == 0; }));
  }

  explicit operator bool() const { return why_not_.empty(); }
  const std::string& why_not() const { return why_not_; }

  /// Moves the calling process, which has one thread, into the group.
  void enter() {
    if (!write(path_ + "/cgroup.procs", "0")) ::_exit(126);
  }

 private:
  /// Returns the directory of this process's own group, or "" if it does not exist.
  static std::string ours() {
    std::ifstream groups{"/proc/self/cgroup"};
    std::string unified;
    for (std::string line; std::getline(groups, line);) {  // "ID:controllers:/group"
      auto const first = line.find(':'), second = line.find(':', first + 1);
      std::string const names = ',' + line.substr(first + 1, second - first - 1) + ',';
      std::string const group = line.substr(second + 1) == "/" ? "" : line.substr(second + 1);
      if (names.find(",pids,") != names.npos) return existing("/sys/fs/cgroup/pids" + group);
      if (names == ",,") unified = existing("/sys/fs/cgroup" + group);
    }
    // If version 1 has other controllers, version 2 is mounted elsewhere and has no usable
    // controller.
    return unified.empty() ? unified : existing(unified + "/cgroup.subtree_control", unified);
  }
  static std::string existing(const std::string& path) { return existing(path, path); }
  static std::string existing(const std::string& file, const std::string& answer) {
    return ::access(file.c_str(), F_OK) == 0 ? answer : std::string{};
  }
  bool write(const std::string& file, const std::string& text) {
    std::ofstream out{file};
    if (out << text << std::flush) return true;
    why_not_ = file + ": " + std::strerror(errno);
    return false;
  }

  std::string path_, why_not_;
};

}  // namespace iowq_test
