// SPDX-License-Identifier: BSL-1.0
// iowq/op/process.hpp -- starts other programs, and waits for their end.
//
// posix_spawn(3) blocks its caller until the program is found and mapped, from a disk or a server,
// so a worker calls it. Workers block every signal, and a child would inherit that mask, so the
// child gets an empty one.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <optional>
#include <ranges>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/waitid.hpp>

namespace iowq::inline v0 {

/// The arguments of a program: a list, or any range of strings. The strings are copied.
class argument_list {
 public:
  argument_list(std::initializer_list<std::string_view> list) {
    for (std::string_view const one : list) add(one);
  }
  template <std::ranges::input_range R>
    requires std::convertible_to<std::ranges::range_reference_t<R>, std::string_view> &&
             (!std::same_as<std::remove_cvref_t<R>, argument_list>)
  argument_list(R&& list) {
    for (auto&& one : list) add(one);
  }

  [[nodiscard]] bool empty() const noexcept { return text_.empty(); }
  /// Returns true if no argument contains a NUL.
  [[nodiscard]] bool is_valid() const noexcept { return valid_; }
  /// The arguments in the form that execve(2) expects. The pointers refer to this list.
  [[nodiscard]] std::vector<char*> pointers() {
    std::vector<char*> all;
    for (std::size_t at = 0; at < text_.size(); at = text_.find('\0', at) + 1)
      all.push_back(text_.data() + at);
    all.push_back(nullptr);
    return all;
  }

 private:
  void add(std::string_view one) {
    valid_ = valid_ && one.find('\0') == one.npos;
    text_.append(one).push_back('\0');
  }
  std::string text_;
  bool valid_ = true;
};

/// How to start a program. spawn_process() copies what the members refer to; the descriptors must
/// stay open until the operation has completed.
struct spawn_options {
  int in = -1;   ///< becomes its standard input; -1: inherited
  int out = -1;  ///< becomes its standard output; -1: inherited
  int err = -1;  ///< becomes its standard error; -1: inherited
  /// "NAME=value" strings; nullopt: inherited.
  std::optional<std::span<const std::string>> environment = {};
  std::string_view directory = {};  ///< where it starts; empty: the current directory
};

/// A child process. Await its end once, with wait_for(); a child that has ended stays a zombie
/// until then. Destroying this object neither ends the child nor waits for it.
class process {
 public:
  process() noexcept = default;
  process(::pid_t id, fd handle) noexcept : id_{id}, handle_{std::move(handle)} {}

  [[nodiscard]] ::pid_t id() const noexcept { return id_; }
  /// A pidfd, which becomes readable when the child has ended; -1 if pidfd_open(2) failed.
  [[nodiscard]] int handle() const noexcept { return handle_.get(); }
  /// Sends a signal to the child. Throws std::system_error: no_such_process after its end was
  /// awaited.
  void signal(int number) const {
    long const r =
        handle_
            ? detail::or_errno(::syscall(SYS_pidfd_send_signal, handle_.get(), number, nullptr, 0))
            : detail::or_errno(::kill(id_, number));
    if (r < 0) detail::throw_error(static_cast<int>(r), "process::signal");
  }

 private:
  ::pid_t id_ = -1;
  fd handle_;
};

/// How a child process ended.
class exit_status {
 public:
  explicit exit_status(const ::siginfo_t& info) noexcept
      : exited_{info.si_code == CLD_EXITED}, number_{info.si_status} {}

  [[nodiscard]] bool exited() const noexcept { return exited_; }
  /// The argument of its exit(3); -1 if a signal ended it.
  [[nodiscard]] int code() const noexcept { return exited_ ? number_ : -1; }
  /// The signal that ended it; 0 if it exited.
  [[nodiscard]] int signal() const noexcept { return exited_ ? 0 : number_; }
  [[nodiscard]] bool success() const noexcept { return exited_ && number_ == 0; }

 private:
  bool exited_;
  int number_;
};

namespace detail {

/// waitid(2) of a child that spawn_process() started.
struct wait_for_call : waitid_call {
  explicit wait_for_call(const process& child) noexcept
      : waitid_call{child.handle() >= 0 ? P_PIDFD : P_PID,
                    static_cast<::id_t>(child.handle() >= 0 ? child.handle() : child.id()),
                    WEXITED} {}
  [[nodiscard]] exit_status value(int) const noexcept { return exit_status{info}; }
};

/// posix_spawnp(3).
struct spawn_call {
  static constexpr operation_row row{
      .name = "spawn_process",
      .first = route::pool,
      .late = discard::close_descriptor,
      .reason = "holds its caller until the program is found and mapped"};
  spawn_call(argument_list list, const spawn_options& options)
      : arguments{std::move(list)},
        directory{options.directory},
        standard{options.in, options.out, options.err} {
    if (options.environment) environment.emplace(*options.environment);
  }

  [[nodiscard]] int validate() const noexcept {
    bool const valid = !arguments.empty() && arguments.is_valid() &&
                       (!environment || environment->is_valid()) &&
                       directory.find('\0') == directory.npos;
    return valid ? 0 : -EINVAL;
  }
  int call(const stop_token&) noexcept {
    try {
      return spawn();
    } catch (const std::bad_alloc&) {
      return -ENOMEM;
    }
  }
  [[nodiscard]] process value(int) noexcept { return {child, std::move(handle)}; }

  argument_list arguments;
  std::optional<argument_list> environment;
  std::string directory;
  int standard[3];
  ::pid_t child = -1;
  fd handle;

 private:
  struct setup {
    setup() noexcept {
      error = ::posix_spawn_file_actions_init(&actions);
      if (error == 0) error = ::posix_spawnattr_init(&attributes);
    }
    setup(const setup&) = delete;
    setup& operator=(const setup&) = delete;
    ~setup() {
      ::posix_spawn_file_actions_destroy(&actions);
      ::posix_spawnattr_destroy(&attributes);
    }
    ::posix_spawn_file_actions_t actions{};
    ::posix_spawnattr_t attributes{};
    int error;
  };

  int spawn() {
    setup how;
    ::sigset_t none;
    ::sigemptyset(&none);
    int r = how.error;
    if (r == 0) r = ::posix_spawnattr_setsigmask(&how.attributes, &none);
    if (r == 0) r = ::posix_spawnattr_setflags(&how.attributes, POSIX_SPAWN_SETSIGMASK);
    fd spare[3];
    for (int i = 0; i < 3 && r == 0; ++i) {
      int from = standard[i];
      if (from < 0) continue;
      if (from < 3 && from != i) {  // an earlier dup2 would replace it
        spare[i].reset(::fcntl(from, F_DUPFD_CLOEXEC, 3));
        if (!spare[i]) return -errno;
        from = spare[i].get();
      }
      r = ::posix_spawn_file_actions_adddup2(&how.actions, from, i);
    }
    if (r == 0 && !directory.empty())
      r = ::posix_spawn_file_actions_addchdir_np(&how.actions, directory.c_str());
    if (r != 0) return -r;
    std::vector<char*> argv = arguments.pointers(), envp;
    if (environment) envp = environment->pointers();
    r = ::posix_spawnp(&child, argv[0], &how.actions, &how.attributes, argv.data(),
                       environment ? envp.data() : environ);
    if (r != 0) return -r;
    // The pid is not reused before the child was awaited, so this pidfd is that of the child.
    handle.reset(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
    return 0;
  }
};

}  // namespace detail

/// Starts a program, which is searched in PATH as by posix_spawnp(3). In the child no signal is
/// blocked. It inherits only the three standard descriptors and those that are not close-on-exec.
/// Yields a process. Fails with the error that prevented the start, such as
/// no_such_file_or_directory; with invalid_argument if there are no arguments or one contains a
/// NUL.
///
///     auto ends = co_await iowq::pipe();
///     auto child = co_await iowq::spawn_process({"date", "-u"}, {.out = ends.second.get()});
template <class = void>
[[nodiscard("co_await it")]] operation<detail::spawn_call> spawn_process(
    argument_list arguments, const spawn_options& options = {},
    std::source_location at = std::source_location::current()) {
  return operation<detail::spawn_call>{at, std::move(arguments), options};
}

/// Waits until `child` has ended, and yields its exit_status. Await it once for each child. `child`
/// must outlive the operation.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::wait_for_call> wait_for(
    const process& child, std::source_location at = std::source_location::current()) {
  return operation<detail::wait_for_call>{at, child};
}

}  // namespace iowq::inline v0
