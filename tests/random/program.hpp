// SPDX-License-Identifier: BSL-1.0
// A random program: a tree of statements, made from a seed, printed as text and read again, and cut
// down while it still fails.
//
//     (do (lock 0 0 (yield 0 0)) (any 0 0 (recv 1 0) (sleep 1 0)))
//
// A statement has a name, two numbers and statements of its own. What they mean is in README.md.
#pragma once

#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace iowq_random {

enum class verb : std::uint8_t {
  // A block.
  do_,
  // Waits.
  lock,
  acquire,
  wait,
  send,
  recv,
  sleep,
  punt,
  yield,
  // Deeds.
  throw_,
  set,
  reset,
  release,
  try_send,
  try_recv,
  close,
  cancel,
  stop,
  halt,
  // Statements together.
  try_,
  call,
  all,
  any,
  timeout,
  with_stop,
  group,
  for_each,
  transform,
  spawn,
  // Between executors: between.cpp alone.
  go,
  // Who is asked to name something that is none.
  none,
};

inline constexpr std::array<std::string_view, static_cast<std::size_t>(verb::none)> verb_names{
    "do",     "lock",  "acquire", "wait",      "send",    "recv",    "sleep",   "punt",
    "yield",  "throw", "set",     "reset",     "release", "trysend", "tryrecv", "close",
    "cancel", "stop",  "halt",    "try",       "call",    "all",     "any",     "timeout",
    "under",  "group", "each",    "transform", "spawn",   "go"};

/// Waits that may stand in an `all` or `any` by themselves, without a coroutine.
[[nodiscard]] inline bool is_wait(verb v) noexcept { return v >= verb::lock && v <= verb::punt; }

struct node {
  verb what = verb::do_;
  int a = 0;
  int b = 0;
  std::vector<node> kids;
};

// ---- Text ----

inline void print(const node& n, std::string& out, int depth = 0) {
  if (depth != 0) out.append("\n").append(static_cast<std::size_t>(2 * depth), ' ');
  out.append("(").append(verb_names[static_cast<std::size_t>(n.what)]);
  out.append(" ").append(std::to_string(n.a)).append(" ").append(std::to_string(n.b));
  for (const node& kid : n.kids) print(kid, out, depth + 1);
  out.append(")");
}
[[nodiscard]] inline std::string text_of(const node& n) {
  std::string text;
  print(n, text);
  return text.append("\n");
}

/// Reads programs, one after the other.
class reader {
 public:
  explicit reader(std::string_view text) : left_{text} {}

  /// Is there another? What stands behind a # is for people.
  [[nodiscard]] bool more() {
    for (;;) {
      while (!left_.empty() && std::isspace(static_cast<unsigned char>(left_.front())) != 0)
        left_.remove_prefix(1);
      if (left_.empty() || left_.front() != '#') return !left_.empty();
      left_.remove_prefix(std::min(left_.find('\n'), left_.size()));
    }
  }
  [[nodiscard]] node read() {
    expect('(');
    node n;
    std::string const name = word();
    std::size_t which = 0;
    while (which < verb_names.size() && verb_names[which] != name) ++which;
    if (which == verb_names.size()) throw std::runtime_error("no statement is called " + name);
    n.what = static_cast<verb>(which);
    n.a = std::stoi(word());
    n.b = std::stoi(word());
    while (more() && left_.front() == '(') n.kids.push_back(read());
    expect(')');
    return n;
  }

 private:
  void expect(char c) {
    if (!more() || left_.front() != c)
      throw std::runtime_error(
          std::string{"a program needs a "}.append(1, c).append(" here: ").append(
              left_.substr(0, 40)));
    left_.remove_prefix(1);
  }
  std::string word() {
    if (!more()) throw std::runtime_error("a program ends too early");
    std::size_t const end = std::min(left_.find_first_of(" \n\t()"), left_.size());
    std::string const text{left_.substr(0, end)};
    left_.remove_prefix(end);
    return text;
  }
  std::string_view left_;
};

// ---- From a seed ----

/// How many there are of each thing that programs share.
inline constexpr int mutexes = 2, semaphores = 2, events = 2, channels = 3, sources = 2, keys = 2;

class generator {
 public:
  explicit generator(std::uint64_t seed) : random_{seed} {}

  [[nodiscard]] node make() {
    left_ = between(4, 45);
    node root;
    while (left_ > 0) root.kids.push_back(statement(0, false));
    return root;
  }

 private:
  static constexpr int deepest = 5;

  int between(int least, int most) {
    // Not std::uniform_int_distribution: a seed shall mean the same with every library.
    return least + static_cast<int>(random_() % static_cast<std::uint64_t>(most - least + 1));
  }
  bool one_in(int n) { return between(1, n) == 1; }

  node leaf() {
    switch (between(0, 10)) {
      case 0:
      case 1:
        return {verb::lock, between(0, mutexes - 1), 0, {}};
      case 2:
        return {verb::acquire, between(0, semaphores - 1), 0, {}};
      case 3:
        return {verb::wait, between(0, events - 1), 0, {}};
      case 4:
      case 5:
        return {verb::send, between(0, channels - 1), 0, {}};
      case 6:
      case 7:
        return {verb::recv, between(0, channels - 1), 0, {}};
      case 8:
        return {verb::sleep, one_in(8) ? -1 : between(0, 6), 0, {}};
      default:
        // How long, in steps of 50 us; a tenth of them throw.
        return {verb::punt, between(0, keys), between(0, 2) + (one_in(10) ? 10 : 0), {}};
    }
  }

  node block(int depth, bool in_group) {
    node body;
    for (int n = between(0, 3); n >= 0 && left_ > 0; --n)
      body.kids.push_back(statement(depth, in_group));
    return body;
  }

  /// What stands in an `all` or `any`: a wait by itself, or a task.
  node child(int depth) {
    if (one_in(2)) {
      --left_;
      return leaf();
    }
    return block(depth + 1, false);
  }

  node several(verb what, int depth) {
    node n{what, between(0, 1), 0, {}};
    for (int count = between(1, 4); count > 0; --count) n.kids.push_back(child(depth));
    return n;
  }

  node statement(int depth, bool in_group) {
    --left_;
    if (in_group && one_in(10)) return {verb::halt, 0, 0, {}};
    int const dice = between(0, 99);
    if (dice < 34) {
      node n = leaf();
      bool const holds = n.what == verb::lock || n.what == verb::acquire;
      if (holds && depth < deepest) n.kids = block(depth + 1, false).kids;
      return n;
    }
    if (dice < 46) return {verb::yield, 0, 0, {}};
    if (dice < 49) return {verb::throw_, between(0, 9), 0, {}};
    if (dice < 53) return {verb::set, between(0, events - 1), 0, {}};
    if (dice < 55) return {verb::reset, between(0, events - 1), 0, {}};
    if (dice < 57) return {verb::release, between(0, semaphores - 1), 0, {}};
    if (dice < 59) return {verb::try_send, between(0, channels - 1), 0, {}};
    if (dice < 61) return {verb::try_recv, between(0, channels - 1), 0, {}};
    if (dice < 62) return {verb::close, between(0, channels - 1), 0, {}};
    if (dice < 64) return {verb::cancel, between(0, sources - 1), 0, {}};
    if (dice < 65) return {verb::stop, 0, 0, {}};
    if (depth >= deepest) return {verb::yield, 0, 0, {}};
    if (dice < 68) return {verb::try_, 0, 0, block(depth + 1, in_group).kids};
    if (dice < 70) return {verb::call, 0, 0, block(depth + 1, false).kids};
    if (dice < 77) return several(verb::all, depth);
    if (dice < 83) return several(verb::any, depth);
    if (dice < 87) return {verb::timeout, between(0, 5), 0, {child(depth)}};
    if (dice < 90) return {verb::with_stop, between(-1, sources - 1), 0, {child(depth)}};
    if (dice < 95) {
      node n{verb::group, between(0, 1), 0, {}};
      for (int count = between(1, 4); count > 0; --count)
        n.kids.push_back(one_in(4) ? statement(depth + 1, true) : block(depth + 1, false));
      return n;
    }
    if (dice < 97)
      return {verb::for_each, between(0, 5), between(1, 3), block(depth + 1, false).kids};
    if (dice < 98)
      return {verb::transform, between(0, 5), between(1, 3), block(depth + 1, false).kids};
    return {verb::spawn, 0, 0, block(depth + 1, false).kids};
  }

  std::mt19937_64 random_;
  int left_ = 0;
};

// ---- Smaller ----

/// Everything that is one step smaller than `n`: a statement less, or one replaced by its own.
/// Calls `consider` with each until it says that this one will do.
template <class Consider>
bool each_smaller(node& whole, node& here, Consider& consider) {
  for (std::size_t i = 0; i < here.kids.size(); ++i) {
    node const removed = std::move(here.kids[i]);
    here.kids.erase(here.kids.begin() + static_cast<std::ptrdiff_t>(i));
    if (consider(whole)) return true;
    auto const at = here.kids.begin() + static_cast<std::ptrdiff_t>(i);
    if (!removed.kids.empty()) {
      here.kids.insert(at, removed.kids.begin(), removed.kids.end());
      if (consider(whole)) return true;
      auto const from = here.kids.begin() + static_cast<std::ptrdiff_t>(i);
      here.kids.erase(from, from + static_cast<std::ptrdiff_t>(removed.kids.size()));
    }
    here.kids.insert(here.kids.begin() + static_cast<std::ptrdiff_t>(i), removed);
  }
  for (node& kid : here.kids)
    if (each_smaller(whole, kid, consider)) return true;
  return false;
}

/// Drops statements while `fails(program)`.
template <class Fails>
[[nodiscard]] node minimise(node program, Fails&& fails) {
  for (bool smaller = true; smaller;) {
    node attempt = program;
    auto consider = [&](const node& candidate) { return fails(candidate); };
    smaller = each_smaller(attempt, attempt, consider);
    if (smaller) program = std::move(attempt);
  }
  return program;
}

}  // namespace iowq_random
