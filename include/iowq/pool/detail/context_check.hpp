// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/context_check.hpp -- detects that the owner forgot to call context_changed().
//
// Workers keep the context in which they were created. After the owner calls unshare(), setfsuid()
// or capset(), they silently keep the old directory, user and privileges, until the owner calls
// context_changed(). In a debug build the pool checks for that: it compares the owner's thread with
// the manager's thread in /proc. All workers are copies of the manager, and the manager never
// changes its own context. A change that affects all threads (a plain chdir(), glibc's setuid())
// shows in both threads, so only a change that affects one thread is reported. A comparison with an
// earlier snapshot of the owner could not distinguish the two.
//
// A check makes two dozen system calls, which take 0.1 to 0.3 ms. So enqueue() checks only the
// first times in each context, and then so rarely that the checks cost 0.5 % of the time. If checks
// are off, the cost is one load.
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

/// When the owner's enqueue() compares the context of its thread with that of the workers. The
/// comparison opens files in /proc. If a seccomp filter of the owner kills the process for that,
/// use `off`.
enum class context_check_mode : unsigned char {
  automatic,  // `sometimes` if any part of the program has neither NDEBUG nor -O, else `off`
  off,
  sometimes,  // in each of the first 64 calls in a context, then at most once in 50 ms
  always,
};

/// Receives the report of the differences. Called at most once in the life of a pool, on the
/// owner's thread, inside enqueue(). It must not throw, and must not use the pool.
using context_mismatch_handler = std::function<void(std::string_view report)>;

namespace detail {

/// Whether any translation unit belongs to a debug build. Translation units of one program may
/// differ in that, so nothing that they share may depend on the macros: no default, no layout, no
/// inline function. A translation unit of a debug build sets the flag before main(). The flag is
/// never cleared.
inline atomic<bool> built_for_debugging{false};

#if !defined(NDEBUG) && !defined(__OPTIMIZE__)
namespace {
// relaxed: the flag publishes no other data.
[[maybe_unused]] bool const says_so =
    (built_for_debugging.store(true, std::memory_order_relaxed), true);
}  // namespace
#endif

/// An attribute that a thread inherits at its creation, and whose later changes in one thread do
/// not affect the others: a line of /proc/.../status, or a link in /proc.
struct inherited_attribute {
  const char* name;
  const char* link;   // name of the link; null if the attribute is a field of `status`
  const char* field;  // prefix of the field in `status`; null if the attribute is a link
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

/// The value of a field of `status`; empty if the text does not contain the field.
[[nodiscard]] inline std::string_view status_field(const char* text, const char* field) noexcept {
  const char* const found = std::strstr(text, field);
  if (found == nullptr) return {};
  std::string_view value{found + std::strlen(field)};
  value = value.substr(0, value.find('\n'));
  while (!value.empty() && (value.front() == '\t' || value.front() == ' ')) value.remove_prefix(1);
  while (!value.empty() && value.back() == ' ') value.remove_suffix(1);
  return value;
}

/// Compares the calling thread with another thread of this process. Allocates nothing.
template <class Policy>
class context_comparison {
 public:
  /// Returns true if an attribute differs. An attribute that cannot be read counts as equal.
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

  /// The differences, one line for each attribute.
  [[nodiscard]] std::string_view lines() const noexcept { return {lines_, length_}; }

 private:
  static constexpr std::size_t room = 4096;
  static constexpr int shown = 200;  // characters printed of a value

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

/// The context check of one pool. If it is off, it costs the owner one branch for each enqueue().
template <class Policy>
class context_watch {
 public:
  /// Call before the pool has another thread.
  void configure(context_check_mode wanted, context_mismatch_handler handler) {
    // relaxed: the flag publishes no other data.
    bool const debugging = built_for_debugging.load(std::memory_order_relaxed);
    always_ = wanted == context_check_mode::always;
    handler_ = std::move(handler);
    on_.store(
        wanted == context_check_mode::automatic ? debugging : wanted != context_check_mode::off,
        std::memory_order_relaxed);
  }

  /// Owner's thread. Call expect_specimen() before the creation of a manager, and no_specimen() if
  /// that failed or after the manager was told to end. The specimen is the manager's thread, with
  /// which the owner is compared.
  void expect_specimen() noexcept {
    careful_ = first_looks;
    say(unborn);
  }
  void no_specimen() noexcept { say(nobody); }
  /// Called on the thread of the new manager, whose context is a copy of the owner's.
  void specimen_is_here() noexcept {
    say(static_cast<std::uint32_t>(Policy::thread_id()));
    if (on()) Policy::futex_wake(specimen_, 1);
  }

  [[nodiscard]] bool on() const noexcept {
    return on_.load(std::memory_order_relaxed);  // relaxed: the owner writes it; publishes nothing
  }

  /// Compares the contexts if a check is due, and reports differences. Owner's thread, without M.
  IOWQ_COLD void look() noexcept {
    if (!is_time()) return;
    // relaxed, both: see say().
    while (specimen_.load(std::memory_order_relaxed) == unborn)
      (void)Policy::futex_wait(specimen_, unborn, detail::never);
    std::uint32_t const specimen = specimen_.load(std::memory_order_relaxed);
    context_comparison<Policy> context;
    if (specimen == nobody || !context.differs(specimen)) return;
    // Another thread may be in a call that changes all threads, one after the other, so compare
    // once more after 2 ms.
    (void)Policy::futex_wait(specimen_, specimen, Policy::now() + std::chrono::milliseconds{2});
    if (!context.differs(specimen)) return;
    on_.store(false, std::memory_order_relaxed);  // relaxed: as above
    report(context.lines());
  }

 private:
  static constexpr unsigned first_looks = 64;
  static constexpr std::chrono::milliseconds pause{50};

  void say(std::uint32_t who) noexcept {
    if (on()) specimen_.store(who, std::memory_order_relaxed);  // relaxed: publishes only the id
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

  // Not the policy's atomic: its value is of no interest to a test that explores schedules.
  detail::atomic<bool> on_{false};
  // The thread id of the manager, or one of these values.
  enum : std::uint32_t { nobody, unborn };
  typename Policy::template atomic<std::uint32_t> specimen_{nobody};
  // Owner thread only.
  context_mismatch_handler handler_;
  bool always_ = false;
  unsigned careful_ = 0;  // number of further calls of enqueue() that all check
  detail::time_point next_{};
};

}  // namespace detail
}  // namespace iowq::inline v0
