// SPDX-License-Identifier: BSL-1.0
// What the library did, step by step: written by library.hpp, judged by reference.hpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "program.hpp"

namespace iowq_random {

/// How something ended.
struct outcome {
  enum kind : std::uint8_t { value, cancelled, timed_out, closed, thrown, other } how = value;
  int n = 0;
  friend bool operator==(const outcome&, const outcome&) = default;
  [[nodiscard]] bool good() const noexcept { return how == value; }
};
[[nodiscard]] inline std::string text_of(outcome o) {
  static constexpr const char* names[] = {"value",  "cancelled", "timed out",
                                          "closed", "threw",     "other error"};
  return std::string{names[o.how]}.append(" ").append(std::to_string(o.n));
}

/// Who: a task, a wait or several together; 0 is the executor. Numbers are given in order.
using name = int;

struct step {
  enum kind : std::uint8_t {
    task_begin,   // of `whose`, as the `n`th
    wait_begin,   // of `whose`, as the `n`th; `what` on `thing`
    scope_begin,  // of `whose`; `what`, of `n`
    stopped,      // a stop request has reached `who`
    task_end,
    wait_end,
    scope_end,
    deed,       // `what` on `thing`, in the course of `whose`
    unlock,     // the mutex that `who` was given
    give_back,  // the permit that `who` was given
    spawned,    // one more of group `who`
    joins,      // group `who`
    unhandled,  // the executor was told of an exception
    quiet,      // nothing is ready, no timer and no call is on its way
    finished,   // run() returned
  } how = finished;
  name who = 0;
  name whose = 0;
  int n = 0;
  verb what = verb::none;
  int thing = 0;
  int value = 0;            // sent
  bool under_stop = false;  // when it began
  outcome end{};
  std::int64_t now = 0;       // ns
  std::int64_t when = 0;      // deadline, ns
  std::vector<int> values{};  // of several
};

using history = std::vector<step>;

[[nodiscard]] inline std::string text_of(const step& s) {
  static constexpr const char* names[] = {"task begins", "wait begins", "scope begins", "stopped",
                                          "task ends",   "wait ends",   "scope ends",   "deed",
                                          "unlock",      "give back",   "spawned",      "joins",
                                          "unhandled",   "quiet",       "finished"};
  std::string text = names[s.how];
  text.append(" #").append(std::to_string(s.who)).append(" of #").append(std::to_string(s.whose));
  text.append(" n=").append(std::to_string(s.n));
  if (s.what != verb::none)
    text.append(" ")
        .append(verb_names[static_cast<std::size_t>(s.what)])
        .append(" ")
        .append(std::to_string(s.thing));
  if (s.how == step::task_end || s.how == step::wait_end || s.how == step::scope_end ||
      s.how == step::deed || s.how == step::unhandled || s.how == step::finished)
    text.append(" -> ").append(text_of(s.end));
  return text;
}

/// What a call on a worker leaves behind. Stamps are of one counter of all threads.
struct call_record {
  name who = 0;
  int key = 0;  // 0: none
  int began = 0;
  int ended = 0;
};

}  // namespace iowq_random
