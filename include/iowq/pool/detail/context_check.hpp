// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/context_check.hpp -- reports that the owner changed its context without
// context_changed().
//
// Workers keep the context in which they were forked: after the owner's unshare(), setfsuid() or
// capset() they go on with the old directory, user and privileges, silently, until it calls
// context_changed(). In a debug build the pool looks: it compares, in /proc, the owner's thread
// with its manager's. All workers are copies of the manager, which never changes anything about
// itself; so what both share (a plain chdir(), glibc's setuid()) differs in neither, and only
// what binds one thread is context_check. A snapshot of the owner's own past could not tell the two
// apart.
//
// A look is two dozen system calls, 0.1 to 0.3 ms, so not every enqueue() looks: the first ones of
// each context do, then so few that they cost half a per cent. Switched off, it is one load.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string_view>
#include <utility>

#include <iowq/base/policy.hpp>

namespace iowq::inline v0 {

/// When the owner's enqueue() compares its thread's context with that of the workers. It opens
/// files in /proc; an owner whose seccomp filter kills for that wants `off`.
enum class context_check_mode : unsigned char {
  automatic,  // `sometimes`, if a part of the program was compiled without NDEBUG and unoptimised
  off,
  sometimes,  // each of the first 64 in a context, then at most once in 50 ms
  always,
};

/// Told once in a pool's life, on the owner's thread, inside enqueue(), what differs and how. Must
/// not throw nor use the pool.
using drift_handler = std::function<void(std::string_view report)>;

namespace detail {

/// Whether some translation unit is one of a debug build. They may differ in that within one
/// program, so nothing that they share may depend on the macros: no default, no layout, no inline
/// function. Each only ever says yes, before main().
inline atomic<bool> built_for_debugging{false};

#if !defined(NDEBUG) && !defined(__OPTIMIZE__)
namespace {
// relaxed: on its own.
[[maybe_unused]] bool const says_so =
    (built_for_debugging.store(true, std::memory_order_relaxed), true);
}  // namespace
#endif

/// One thing that a thread inherits and others then do not start_successor: a line of
/// /proc/.../status, or a link.
struct inherited_attribute {
  const char* name;
  const char* link;   // null: in status
  const char* field;  // of status
};

inline constexpr inherited_attribute inherited_attributes[] = {
    {"user ids (real, effective, saved, file system's)", nullptr, "\nUid:"},
    {"group ids (real, effective, saved, file system's)", nullptr, "\nGid:"},
    {"supplementary groups", nullptr, "\nGroups:"},
    {"effective capabilities", nullptr, "\nCapEff:"},
    {"no_new_privs", nullptr, "\nNoNewPrivs:"},
    {"seccomp mode", nullptr, "\nSeccomp:"},
    {"number of seccomp filters", nullptr, "\nSeccomp_filters:"},
    {"umask", nullptr, "\nUmask:"},
    {"working directory", "cwd", nullptr},
    {"root directory", "root", nullptr},
    {"network namespace", "ns/net", nullptr},
    {"mount namespace", "ns/mnt", nullptr},
    {"UTS namespace", "ns/uts", nullptr},
    {"IPC namespace", "ns/ipc", nullptr},
    {"user namespace", "ns/user", nullptr},
    {"cgroup namespace", "ns/cgroup", nullptr},
};

/// The value of a field; empty if the text has none.
[[nodiscard]] inline std::string_view status_field(const char* text, const char* field) noexcept {
  const char* const found = std::strstr(text, field);
  if (found == nullptr) return {};
  std::string_view value{found + std::strlen(field)};
  value = value.substr(0, value.find('\n'));
  while (!value.empty() && (value.front() == '\t' || value.front() == ' ')) value.remove_prefix(1);
  while (!value.empty() && value.back() == ' ') value.remove_suffix(1);
  return value;
}

/// Compares the calling thread with another one of this process. Allocates nothing.
template <class Policy>
class context_comparison {
 public:
  /// True if something differs. What cannot be read does not.
  bool differs(unsigned other) noexcept {
    length_ = 0;
    char theirs[32];
    std::snprintf(theirs, sizeof theirs, "/proc/self/task/%u", other);
    read("/proc/thread-self", "status", mine_, &Policy::read_text);
    read(theirs, "status", theirs_, &Policy::read_text);
    for (const inherited_attribute& each : inherited_attributes)
      if (each.link == nullptr)
        compare(each.name, status_field(mine_, each.field), status_field(theirs_, each.field));
    for (const inherited_attribute& each : inherited_attributes) {
      if (each.link == nullptr) continue;
      read("/proc/thread-self", each.link, mine_, &Policy::read_link);
      read(theirs, each.link, theirs_, &Policy::read_link);
      compare(each.name, mine_, theirs_);
    }
    return length_ != 0;
  }

  /// What differs, a line each.
  [[nodiscard]] std::string_view lines() const noexcept { return {lines_, length_}; }

 private:
  static constexpr std::size_t room = 4096;
  static constexpr int shown = 200;  // characters of a value

  static void read(const char* thread, const char* file, char (&text)[room],
                   int (*call)(const char*, char*, std::size_t)) noexcept {
    char path[64];
    std::snprintf(path, sizeof path, "%s/%s", thread, file);
    if (call(path, text, room) < 0) text[0] = 0;
  }
  void compare(const char* name, std::string_view mine, std::string_view theirs) noexcept {
    if (mine.empty() || theirs.empty() || mine == theirs) return;
    int const written =
        std::snprintf(lines_ + length_, room - length_, "  %s: %.*s, its workers' %.*s\n", name,
                      std::min(static_cast<int>(mine.size()), shown), mine.data(),
                      std::min(static_cast<int>(theirs.size()), shown), theirs.data());
    std::size_t const end = length_ + static_cast<std::size_t>(std::max(written, 0));
    for (length_ = std::min(end, room - 1); char* const tab = std::strchr(lines_, '\t');)
      *tab = ' ';  // between the numbers of one line
  }

  char mine_[room], theirs_[room], lines_[room];
  std::size_t length_ = 0;
};

/// A pool's. Off, it costs its owner one branch an enqueue().
template <class Policy>
class context_watch {
 public:
  /// Before there is another thread.
  void configure(context_check_mode wanted, drift_handler handler) {
    // relaxed: on its own.
    bool const debugging = built_for_debugging.load(std::memory_order_relaxed);
    always_ = wanted == context_check_mode::always;
    handler_ = std::move(handler);
    on_.store(
        wanted == context_check_mode::automatic ? debugging : wanted != context_check_mode::off,
        std::memory_order_relaxed);
  }

  /// Owner's thread: it is about to fork a manager, or could not, or ended it.
  void expect_specimen() noexcept {
    careful_ = first_looks;
    say(unborn);
  }
  void no_specimen() noexcept { say(nobody); }
  /// The new manager, a copy of the owner.
  void specimen_is_here() noexcept {
    say(static_cast<std::uint32_t>(Policy::thread_id()));
    if (on()) Policy::futex_wake(specimen_, 1);
  }

  [[nodiscard]] bool on() const noexcept {
    return on_.load(std::memory_order_relaxed);  // relaxed: only the owner, who writes it, goes on
  }

  /// Owner's thread, without M.
  IOWQ_COLD void look() noexcept {
    if (!is_time()) return;
    // relaxed, both: see say().
    while (specimen_.load(std::memory_order_relaxed) == unborn)
      (void)Policy::futex_wait(specimen_, unborn, detail::never);
    std::uint32_t const specimen = specimen_.load(std::memory_order_relaxed);
    context_comparison<Policy> context;
    if (specimen == nobody || !context.differs(specimen)) return;
    // Another thread may just be in a call that changes all threads, one after the other.
    (void)Policy::futex_wait(specimen_, specimen, Policy::now() + std::chrono::milliseconds{2});
    if (!context.differs(specimen)) return;
    on_.store(false, std::memory_order_relaxed);  // relaxed: as above
    report(context.lines());
  }

 private:
  static constexpr unsigned first_looks = 64;
  static constexpr std::chrono::milliseconds pause{50};

  void say(std::uint32_t who) noexcept {
    if (on()) specimen_.store(who, std::memory_order_relaxed);  // relaxed: /proc knows the rest
  }
  bool is_time() noexcept {
    if (always_) return true;
    if (careful_ > 0) {
      --careful_;
      return true;
    }
    detail::time_point const now = Policy::now_coarsely();
    if (now < next_) return false;
    next_ = now + pause;
    return true;
  }
  void report(std::string_view lines) const noexcept {
    char text[4096 + 512];
    int const length = std::snprintf(
        text, sizeof text,
        "iowq: the owner's context changed since this pool's workers were forked:\n%.*s"
        "Items run in the old one. Call context_changed() after such a change.\n",
        static_cast<int>(lines.size()), lines.data());
    if (handler_)
      handler_({text, static_cast<std::size_t>(length)});
    else
      std::fputs(text, stderr);
  }

  // Not the policy's atomic: who explores schedules has no interest in it.
  detail::atomic<bool> on_{false};
  // The manager's thread.
  enum : std::uint32_t { nobody, unborn };
  typename Policy::template atomic<std::uint32_t> specimen_{nobody};
  // Owner thread only.
  drift_handler handler_;
  bool always_ = false;
  unsigned careful_ = 0;  // looks still to be made at each enqueue()
  detail::time_point next_{};
};

}  // namespace detail
}  // namespace iowq::inline v0
