// SPDX-License-Identifier: BSL-1.0
// Prints the end of files and the data that is added to them, like `tail -F`, which follows a name
// and not an open file.
//
// One coroutine for each file waits until inotify reports an event. It then reads the new data and
// checks whether the name still refers to the file that it has open. If the file was rotated, it
// reads the old file to its end first, so no line is lost.
#include <sys/inotify.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <iowq/iowq.hpp>

namespace {

struct options {
  std::vector<std::string> names;
  std::uint64_t lines = 10;
  bool follow = false;
  bool quiet = false;
};

/// Standard output, shared by all files. Prints a header line when the output changes to another
/// file.
class output {
 public:
  explicit output(bool headers) : headers_{headers} {}

  iowq::task<> write(const std::string& name, std::string_view text) {
    auto const turn = co_await mutex_.lock();  // a text is written in parts
    if (headers_ && last_ != name) {
      std::string const header = (last_.empty() ? "==> " : "\n==> ") + name + " <==\n";
      last_ = name;
      co_await iowq::write_all(STDOUT_FILENO, header);
    }
    co_await iowq::write_all(STDOUT_FILENO, text);
  }

 private:
  bool headers_;
  std::string last_;
  iowq::mutex mutex_;
};

bool same_file(const iowq::file_status& a, const iowq::file_status& b) {
  return a.device() == b.device() && a.inode() == b.inode();
}

/// One name, and the file that it refers to.
class followed {
 public:
  followed(std::string name, output& to) : name_{std::move(name)}, out_{to} {}

  [[nodiscard]] bool missing() const { return !file_; }

  iowq::task<> print_last(std::uint64_t lines) {
    co_await open();
    if (!file_) co_return say("cannot open", error_);
    at_ = co_await start_of_last(lines);
    co_await print_new();
  }

  /// Never returns; a stop request ends it.
  iowq::task<> follow() {
    std::filesystem::path const path{name_};
    std::string const directory = path.has_parent_path() ? path.parent_path().string() : ".";
    std::string const file = path.filename().string();
    iowq::fd const events{::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)};
    if (!events) throw std::system_error{errno, std::generic_category(), "inotify_init1"};
    // The directory reports changes of the name. The file, which may be behind a symbolic link,
    // reports changes of its contents.
    constexpr std::uint32_t of_name = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE;
    if (::inotify_add_watch(events.get(), directory.c_str(), of_name | IN_ONLYDIR) < 0)
      throw std::system_error{errno, std::generic_category(), directory};
    for (;;) {
      // Add the watch first and read then: a change in between is noticed by one or the other.
      ::inotify_add_watch(events.get(), name_.c_str(), IN_MODIFY | IN_ATTRIB);
      co_await catch_up();
      co_await wait_for_news(events, file);
    }
  }

 private:
  iowq::task<> open() {
    auto opened = co_await iowq::as_result(iowq::open(name_, O_RDONLY | O_NONBLOCK | O_NOCTTY));
    error_ = opened.error();
    if (!opened) co_return;
    iowq::fd file = *std::move(opened);
    status_ = co_await iowq::fstat(file);
    if (!status_.is_regular()) {
      error_ = std::make_error_code(std::errc::not_supported);
      co_return;
    }
    file_ = std::move(file);
    at_ = 0;
  }

  /// Returns where the last `lines` lines begin. Reads backwards from the end, no more than it
  /// needs.
  iowq::task<std::uint64_t> start_of_last(std::uint64_t lines) {
    std::array<char, 32768> block;
    if (lines == 0) co_return status_.size();
    std::uint64_t end = status_.size(), wanted = lines;
    bool is_end = true;  // the final newline ends the last line and does not begin another
    while (end != 0) {
      std::uint64_t const begin = end - std::min<std::uint64_t>(end, block.size());
      auto const part = std::span{block}.first(static_cast<std::size_t>(end - begin));
      std::size_t const got = co_await iowq::pread(file_, part, static_cast<std::int64_t>(begin));
      for (std::size_t i = got; i-- != 0;) {
        bool const ends_line = block[i] == '\n' && !is_end;
        is_end = false;
        if (ends_line && --wanted == 0) co_return begin + i + 1;
      }
      end = begin;
    }
    co_return 0;
  }

  iowq::task<> print_new() {
    std::array<char, 65536> buffer;
    for (;;) {
      std::size_t const got = co_await iowq::pread(file_, buffer, static_cast<std::int64_t>(at_));
      if (got == 0) co_return;
      at_ += got;
      co_await out_.write(name_, {buffer.data(), got});
    }
  }

  iowq::task<> catch_up() {
    if (file_) co_await read_on();
    auto const named = co_await iowq::as_result(iowq::stat(name_));
    if (!named) {
      if (file_ && !gone_) say("has become inaccessible", named.error());
      gone_ = true;
      // A file that was only renamed may be written to until its successor exists.
      if (file_ && status_.links() == 0) co_await iowq::close(std::move(file_));
      co_return;
    }
    if (file_ && same_file(*named, status_)) {
      gone_ = false;
      co_return;
    }
    bool const appeared = gone_ || !file_;
    if (file_) {
      co_await read_on();  // the data written before the successor existed
      co_await iowq::close(std::move(file_));
    }
    co_await open();
    if (!file_) co_return;
    gone_ = false;
    say(appeared ? "has appeared; following new file" : "has been replaced; following new file");
    co_await print_new();
  }

  iowq::task<> read_on() {
    status_ = co_await iowq::fstat(file_);
    if (status_.size() < at_) {
      say("file truncated");
      at_ = 0;
    }
    co_await print_new();
  }

  /// Returns when the file or its name has changed.
  static iowq::task<> wait_for_news(const iowq::fd& events, const std::string& file) {
    alignas(::inotify_event) std::array<char, 4096> buffer;
    for (std::size_t got = 0; !concerns(file, {buffer.data(), got});)
      got = co_await iowq::read(events, buffer);
  }

  static bool concerns(const std::string& file, std::string_view events) {
    while (!events.empty()) {
      std::uint32_t size;  // length of the name, including the NULs that pad it
      std::memcpy(&size, events.data() + offsetof(::inotify_event, len), sizeof size);
      std::string_view const padded = events.substr(sizeof(::inotify_event), size);
      std::string_view const name = padded.substr(0, padded.find('\0'));
      if (name.empty() || name == file) return true;  // later events are covered by the next check
      events.remove_prefix(sizeof(::inotify_event) + size);
    }
    return false;
  }

  void say(std::string_view what, std::error_code why = {}) const {
    std::cerr << "tail: " << name_ << ": " << what;
    if (why) std::cerr << ": " << why.message();
    std::cerr << std::endl;
  }

  std::string name_;
  output& out_;
  iowq::fd file_;
  iowq::file_status status_;  // at the last check
  bool gone_ = false;         // the name does not exist
  std::uint64_t at_ = 0;      // offset of the end of the printed data
  std::error_code error_;
};

iowq::task<int> tail(const options& wanted) {
  output out{wanted.names.size() > 1 && !wanted.quiet};
  std::vector<followed> files;
  for (const std::string& name : wanted.names) files.emplace_back(name, out);
  int exit_code = 0;
  for (followed& one : files) {
    co_await one.print_last(wanted.lines);
    if (one.missing()) exit_code = 1;
  }
  if (!wanted.follow) co_return exit_code;
  iowq::task_group all;
  for (followed& one : files) all.spawn(one.follow());
  co_await all.join();
  co_return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"The end of files, and what is added to them", "tail"};
  options wanted;
  app.add_option("names", wanted.names, "files")->required();
  app.add_option("-n,--lines", wanted.lines, "how many lines of each")->capture_default_str();
  app.add_flag("-F,--follow", wanted.follow, "go on with what the names mean, whatever happens");
  app.add_flag("-q,--quiet", wanted.quiet, "do not say which file it is");
  CLI11_PARSE(app, argc, argv);
  try {
    return iowq::run(tail(wanted));
  } catch (const std::exception& error) {
    std::cerr << "tail: " << error.what() << '\n';
    return 1;
  }
}
