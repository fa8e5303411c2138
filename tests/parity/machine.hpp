// SPDX-License-Identifier: BSL-1.0
// What the programs of tests/parity run on: one column of the comparison, a directory of its own,
// and a trace of everything that happened. Two columns agree if their traces are equal.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <iowq/iowq.hpp>

#include "ways.hpp"

namespace parity {

using iowq_test::way;

/// One way to do it all. The first is the measure of the others.
struct column {
  const char* name;
  bool bare = false;  // system calls, and nothing of ours
  way go = way::usual;
  iowq::executor_options options = {};
};

inline std::vector<column> columns() {
  std::vector<column> all;
  all.push_back({.name = "system calls", .bare = true});
  all.push_back({.name = "as routed"});
  all.push_back({.name = "on_ring", .go = way::ring});
  all.push_back({.name = "on_pool", .go = way::pool});
  all.push_back({.name = "punt_policy::kernel", .options = {.punt = iowq::punt_policy::kernel}});
  all.push_back({.name = "no ring", .options = {.backend = iowq::backend_kind::poll}});
  all.push_back({.name = "no ring, on_pool",
                 .go = way::pool,
                 .options = {.backend = iowq::backend_kind::poll}});
  return all;
}

/// The names of the rows that some program has used.
inline std::set<std::string>& rows_used() {
  static std::set<std::string> all;
  return all;
}

/// The programs' state. What a step chooses depends on the seed and on what happened before,
/// which is the same in every column or has been reported by then.
class machine {
 public:
  static constexpr std::size_t slots = 6;
  static constexpr std::size_t buffer_size = 16384;

  machine(const column& which, std::string directory, std::uint64_t seed)
      : column_{which}, directory_{std::move(directory)}, random_{seed} {
    for (std::size_t i = 0; i < bytes_.size(); ++i)
      bytes_[i] = static_cast<char>('a' + (seed + i * 7 + i / 26) % 26);
  }

  // ---- Chance ----

  [[nodiscard]] std::size_t below(std::size_t n) { return random_() % n; }
  [[nodiscard]] bool once_in(std::size_t n) { return below(n) == 0; }
  template <class T>
  [[nodiscard]] T one_of(std::initializer_list<T> all) {
    return *(all.begin() + below(all.size()));
  }
  /// A name that may be a file, a directory, a link, or nothing.
  [[nodiscard]] std::string name() { return std::string(1, static_cast<char>('a' + below(6))); }
  [[nodiscard]] std::string path() {
    if (once_in(40)) return one_of<std::string>({"", "a/../b", std::string("a/../b\0c", 8)});
    return once_in(5) ? directory_ + '/' + name() + '/' + name() : directory_ + '/' + name();
  }
  [[nodiscard]] iowq::fd& file() { return files_[below(slots)]; }
  [[nodiscard]] std::int64_t offset() {
    return one_of<std::int64_t>({0, 0, 1, 512, 4096, 5000, 65536, 1 << 20});
  }
  /// ... or one that is refused. Of two mistakes at once each side may name its own, so not where
  /// the descriptor is one.
  [[nodiscard]] std::int64_t offset(const iowq::fd& file) {
    std::int64_t const good = offset(), bad = one_of<std::int64_t>({-1, -2});
    return once_in(5) && is_usable(file) ? bad : good;
  }
  [[nodiscard]] static bool is_usable(const iowq::fd& file) {
    int const flags = file ? ::fcntl(file.get(), F_GETFL) : -1;
    return flags >= 0 && (flags & O_PATH) == 0;
  }
  /// The ring does not move the position of such a file when the disk answers later: said in
  /// read()'s contract, and not compared here.
  [[nodiscard]] static bool is_direct(const iowq::fd& file) {
    int const flags = file ? ::fcntl(file.get(), F_GETFL) : -1;
    return flags >= 0 && (flags & O_DIRECT) != 0;
  }
  [[nodiscard]] std::size_t length() {
    return one_of<std::size_t>({0, 1, 7, 512, 4096, 4097, 10000, buffer_size});
  }

  // ---- Deeds ----

  /// Makes the call `row`: `sys()`, which answers as system calls do, or the operation of `make()`,
  /// whose value goes to `keep()`, which makes a number of it. Writes down what came of it.
  template <class Sys, class Make, class Keep>
  iowq::task<long> both(const char* row, Sys sys, Make make, Keep keep) {
    rows_used().insert(row);
    long answer;
    if (column_.bare) {
      errno = 0;
      answer = static_cast<long>(sys());
      if (answer < 0) answer = -errno;
    } else {
      auto op = make();
      auto sent = iowq_test::as(column_.go, std::move(op));
      auto got = co_await iowq::as_result(std::move(sent));
      if (!got)
        answer = -got.error().value();
      else if constexpr (std::is_void_v<typename std::remove_cvref_t<decltype(got)>::value_type>)
        answer = 0;
      else
        answer = keep(*std::move(got));
    }
    note(std::string{row} + ' ' + std::to_string(answer));
    co_return answer;
  }
  /// ... of a value that is a number, or nothing.
  template <class Sys, class Make>
  iowq::task<long> both(const char* row, Sys sys, Make make) {
    co_return co_await both(row, std::move(sys), std::move(make), [](auto&& value) {
      if constexpr (std::is_convertible_v<decltype(value), long>)
        return static_cast<long>(value);
      else
        return 0L;
    });
  }
  /// ... of a descriptor, which goes into `slot`; 0 stands for any.
  template <class Sys, class Make>
  iowq::task<long> both_into(iowq::fd& slot, const char* row, Sys sys, Make make) {
    auto const take = [&slot](int number) {
      slot.reset(number);
      return 0L;
    };
    auto const called = [&] {
      int const number = sys();
      return number < 0 ? -1L : take(number);
    };
    co_return co_await both(row, called, std::move(make),
                            [&slot](iowq::fd made) { return slot = std::move(made), 0L; });
  }

  void note(std::string what) { trace_.push_back(std::move(what)); }
  /// Bytes that a call filled in.
  void note_bytes(const char* data, long size) {
    std::uint64_t sum = 14695981039346656037U;
    for (long i = 0; i < size; ++i)
      sum = (sum ^ static_cast<unsigned char>(data[i])) * 1099511628211U;
    note("  " + std::to_string(size) + " bytes, " + std::to_string(sum));
  }
  void note_status(const struct ::statx& s) {
    note("  mode " + std::to_string(s.stx_mode) + " links " + std::to_string(s.stx_nlink) +
         " size " + std::to_string((s.stx_mode & S_IFMT) == S_IFDIR ? 0 : s.stx_size) + " of " +
         std::to_string(s.stx_uid));
  }

  /// What is left: every name and its contents, where the open files stand.
  void note_everything() {
    for (iowq::fd& one : files_)
      note("position " + std::to_string(one ? ::lseek(one.get(), 0, SEEK_CUR) : -1) + " flags " +
           std::to_string(one ? ::fcntl(one.get(), F_GETFL) : -1) + " close-on-exec " +
           std::to_string(one ? ::fcntl(one.get(), F_GETFD) : -1));
    note_directory(directory_);
  }

  [[nodiscard]] const std::vector<std::string>& trace() const { return trace_; }
  [[nodiscard]] bool bare() const { return column_.bare; }
  [[nodiscard]] bool has_ring() const {
    return column_.options.backend != iowq::backend_kind::poll;
  }
  [[nodiscard]] const std::string& directory() const { return directory_; }
  [[nodiscard]] char* bytes() { return bytes_.data(); }
  /// Aligned for O_DIRECT.
  [[nodiscard]] char* room() { return room_.data(); }
  [[nodiscard]] std::array<iowq::fd, slots>& files() { return files_; }

 private:
  void note_directory(const std::string& path) {
    std::vector<std::string> names;
    if (DIR* const all = ::opendir(path.c_str())) {
      while (const dirent* one = ::readdir(all))
        if (std::string_view const n = one->d_name; n != "." && n != "..") names.emplace_back(n);
      ::closedir(all);
    }
    std::sort(names.begin(), names.end());
    for (const std::string& n : names) {
      std::string const whole = path + '/' + n;
      struct ::statx s;
      ::statx(AT_FDCWD, whole.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &s);
      note(whole.substr(directory_.size()));
      note_status(s);
      if (S_ISDIR(s.stx_mode)) note_directory(whole);
      if (S_ISREG(s.stx_mode)) note_contents(whole);
    }
  }
  void note_contents(const std::string& path) {
    iowq::fd const file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    std::vector<char> all(1 << 16);
    for (long n; (n = ::read(file.get(), all.data(), all.size())) > 0;) note_bytes(all.data(), n);
  }

  const column& column_;
  std::string directory_;
  std::mt19937_64 random_;
  std::vector<std::string> trace_;
  std::array<iowq::fd, slots> files_;
  std::array<char, buffer_size> bytes_{};
  alignas(4096) std::array<char, buffer_size> room_{};
};

}  // namespace parity
