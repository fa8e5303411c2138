// SPDX-License-Identifier: BSL-1.0
// Random programs over the two executors of a runtime. Their steps come in any order, so there is
// no reference to be told them one by one; there are rules that hold whatever the order. See
// README.md.
//
//   between --seed S --count N        N programs, from seed S on
//   between --show SEED               prints the program of a seed
//   between --replay FILE             runs the programs of FILE, a hundred times each
//
// A program that fails is cut down, unless `--cut-down no` came before, and printed. Exit status 1.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <iowq/iowq.hpp>

#include "program.hpp"

namespace {

using namespace iowq_random;
using iowq::executor;
using iowq::task;

constexpr int executors = 2;

// ---- What a program did ----

/// A value: whose it is, and the how manieth of that sender's to that channel.
struct letter {
  int sender = -1;
  int number = 0;
  friend auto operator<=>(const letter&, const letter&) = default;
};
struct receipt {
  letter what;
  int channel, receiver;
};

class world {
 public:
  explicit world(iowq::runtime& r) : both{r} {}

  void fault(std::string what) {
    std::lock_guard const held{mutex_};
    if (fault_.empty()) fault_ = std::move(what);
  }
  /// E1, at each step: a task goes on where it is, and nowhere else.
  void is_at(int place, const char* after) {
    if (&executor::current() != &both.at(static_cast<std::size_t>(place)))
      fault(std::string{"E1: on the wrong executor after "}.append(after));
  }
  void sent(letter what, int which) {
    std::lock_guard const held{mutex_};
    sent_.emplace_back(what, which);
  }
  void received(receipt one) {
    std::lock_guard const held{mutex_};
    received_.push_back(one);
  }
  void posted() { ++posted_; }
  /// E5: what one task posts to one executor begins in that order.
  void began(int poster, int place, int number) {
    std::lock_guard const held{mutex_};
    ++begun_;
    int& last = begun_last_[{poster, place}];
    if (number != last + 1 && fault_.empty()) fault_ = "E5: posted tasks overtook each other";
    last = number;
  }

  /// When nothing of it lives any more; empty if all is well.
  [[nodiscard]] std::string judge() {
    if (!fault_.empty()) return fault_;
    if (tasks != 0) return "E4: a task lives on";
    if (begun_ != posted_) return "E5: a posted task was lost";
    std::map<std::pair<int, letter>, int> left;
    for (auto const& [what, where] : sent_) ++left[{where, what}];
    std::map<std::array<int, 3>, int> last;  // of a channel, a sender, a receiver
    for (receipt const& one : received_) {
      if (--left[{one.channel, one.what}] < 0) return "E2: received what was not sent, or twice";
      int& before = last[{one.channel, one.what.sender, one.receiver}];
      if (one.what.number <= before) return "E3: one sender's values came out of order";
      before = one.what.number;
    }
    for (auto const& [which, count] : left)
      if (count != 0) return "E2: sent, and never received";
    return {};
  }

  iowq::runtime& both;
  iowq::channel<letter> channel[channels] = {iowq::channel<letter>{0}, iowq::channel<letter>{1},
                                             iowq::channel<letter>{3}};
  std::atomic<int> tasks{0}, names{0};
  std::atomic<int> open{1};  // tasks that nobody awaits and that may send

 private:
  std::mutex mutex_;
  std::string fault_;
  std::vector<std::pair<letter, int>> sent_;
  std::vector<receipt> received_;
  std::map<std::pair<int, int>, int> begun_last_;
  std::atomic<int> posted_{0};
  int begun_ = 0;
};

// ---- A program, run ----

/// A task of it: what it is called, and what it has sent and posted.
struct self {
  explicit self(world& w, int at) : all{w}, name{++w.names}, place{at} { ++all.tasks; }
  self(const self&) = delete;
  self& operator=(const self&) = delete;
  ~self() { --all.tasks; }
  world& all;
  int name;
  int place;
  std::array<int, channels> sent{};
  std::array<int, executors> posted{};
};

task<> block(self& me, const node& body);

/// A child, which may end wherever it likes; E4: it has ended when its parent goes on.
task<> child(world& all, const node& body, int place, std::atomic<int>& living) {
  self me{all, place};
  co_await block(me, body);
  --living;
}
task<> posted(world& all, const node& body, int place, int poster, int number) {
  {
    self me{all, place};
    all.is_at(place, "a post");
    all.began(poster, place, number);
    co_await block(me, body);
  }
  --all.open;
}

task<> send(self& me, int which, int limit) {
  letter const what{me.name, ++me.sent[static_cast<std::size_t>(which)]};
  auto op = me.all.channel[which].send(what);
  std::error_code error;
  if (limit < 0) {
    auto const end = co_await iowq::as_result(std::move(op));
    error = end.error();
  } else {
    auto limited = iowq::timeout(std::move(op), std::chrono::microseconds{50 * limit});
    auto const end = co_await iowq::as_result(std::move(limited));
    error = end.error();
  }
  if (!error) me.all.sent(what, which);
}
task<> receive(self& me, int which, int limit) {
  auto op = me.all.channel[which].recv();
  std::optional<letter> got;
  if (limit < 0) {
    got = co_await std::move(op);
  } else {
    auto limited = iowq::timeout(std::move(op), std::chrono::microseconds{50 * limit});
    auto end = co_await iowq::as_result(std::move(limited));
    if (end) got = *end;
  }
  if (got) me.all.received({*got, which, me.name});
}

task<> statement(self& me, const node& n) {
  world& all = me.all;
  switch (n.what) {
    case verb::send:
      co_await send(me, n.a, n.b);
      break;
    case verb::recv:
      co_await receive(me, n.a, n.b);
      break;
    case verb::sleep:
      co_await iowq::sleep_for(std::chrono::microseconds{20 * n.a});
      break;
    case verb::yield:
      co_await iowq::yield();
      break;
    case verb::go:
      co_await iowq::resume_on(all.both.at(static_cast<std::size_t>(n.a)));
      me.place = n.a;
      break;
    case verb::spawn:
      ++all.open;
      all.posted();
      all.both.at(static_cast<std::size_t>(n.a))
          .post(posted(all, n, n.a, me.name, ++me.posted[static_cast<std::size_t>(n.a)]));
      break;
    case verb::all: {
      std::atomic<int> living{static_cast<int>(n.kids.size())};
      std::vector<task<>> kids;
      for (const node& kid : n.kids) kids.push_back(child(all, kid, me.place, living));
      co_await iowq::when_all(std::move(kids));
      if (living != 0) all.fault("E4: when_all went on before all had ended");
      break;
    }
    case verb::group: {
      std::atomic<int> living{static_cast<int>(n.kids.size())};
      iowq::task_group group;
      for (const node& kid : n.kids) group.spawn(child(all, kid, me.place, living));
      co_await group.join();
      if (living != 0) all.fault("E4: a group was joined before all had ended");
      break;
    }
    default:
      co_await block(me, n);
      break;
  }
  all.is_at(me.place, verb_names[static_cast<std::size_t>(n.what)].data());
}
task<> block(self& me, const node& body) {
  for (const node& n : body.kids) co_await statement(me, n);
}

/// Takes what nobody else does, so that no send waits for ever.
task<> drain(world& all, int which, int place) {
  self me{all, place};
  while (auto const one = co_await all.channel[which].recv()) {
    all.received({*one, which, me.name});
    all.is_at(place, "recv");
  }
}
task<> root(world& all, const node& program) {
  {
    self me{all, 0};
    co_await block(me, program);
  }
  --all.open;
}
task<> close_when_quiet(world& all) {
  while (all.open != 0) co_await iowq::sleep_for(std::chrono::microseconds{50});
  for (auto& each : all.channel) each.close();
}

std::string run_and_judge(iowq::runtime& r, const node& program) {
  auto all = std::make_unique<world>(r);
  std::atomic<int> left{channels + 2};
  auto const then = [](task<> work, std::atomic<int>& count) -> task<> {
    co_await std::move(work);
    if (--count == 0) count.notify_one();
  };
  for (int which = 0; which < channels; ++which)
    r.at(static_cast<std::size_t>(which % executors))
        .post(then(drain(*all, which, which % executors), left));
  r.at(0).post(then(root(*all, program), left));
  r.at(1).post(then(close_when_quiet(*all), left));
  for (int now = left; now != 0; now = left) left.wait(now);
  return all->judge();
}

// ---- From a seed ----

class maker {
 public:
  explicit maker(std::uint64_t seed) : random_{seed} {}
  [[nodiscard]] node make() {
    left_ = between(6, 40);
    node whole;
    while (left_ > 0) whole.kids.push_back(statement(0));
    return whole;
  }

 private:
  int between(int least, int most) {
    return least + static_cast<int>(random_() % static_cast<std::uint64_t>(most - least + 1));
  }
  int limit() { return between(0, 3) == 0 ? between(0, 4) : -1; }
  node block(int depth) {
    node body;
    for (int n = between(1, 5); n > 0 && left_ > 0; --n) body.kids.push_back(statement(depth));
    return body;
  }
  node statement(int depth) {
    --left_;
    int const dice = between(0, 99);
    if (dice < 35) return {verb::send, between(0, channels - 1), limit(), {}};
    // Without a limit a receive might wait for what nobody sends, and nobody closes.
    if (dice < 45) return {verb::recv, between(0, channels - 1), between(0, 4), {}};
    if (dice < 60) return {verb::go, between(0, executors - 1), 0, {}};
    if (dice < 68) return {verb::yield, 0, 0, {}};
    if (dice < 71) return {verb::sleep, between(0, 4), 0, {}};
    if (depth >= 3) return {verb::yield, 0, 0, {}};
    if (dice < 82) return {verb::spawn, between(0, executors - 1), 0, block(depth + 1).kids};
    node n{dice < 92 ? verb::all : verb::group, 0, 0, {}};
    for (int kids = between(1, 3); kids > 0; --kids) n.kids.push_back(block(depth + 1));
    return n;
  }
  std::mt19937_64 random_;
  int left_ = 0;
};

// ---- A child runs programs, so that one that stops the process, or hangs, fails like another ----

/// The first that failed and why.
template <class Make>
std::optional<std::pair<long, std::string>> first_failure(long count, Make&& make, unsigned limit) {
  int ends[2];
  if (::pipe(ends) != 0) std::abort();
  std::cout.flush();
  pid_t const id = ::fork();
  if (id == 0) {
    ::close(ends[0]);
    iowq::runtime r{{.threads = executors}};
    for (long i = 0; i < count; ++i) {
      ::alarm(limit);
      if (::write(ends[1], &i, sizeof i) != sizeof i) std::_Exit(2);
      std::string const why = run_and_judge(r, make(i));
      if (why.empty()) continue;
      long const failed = -1;
      bool const said = ::write(ends[1], &failed, sizeof failed) == sizeof failed &&
                        ::write(ends[1], why.data(), why.size()) > 0;
      std::_Exit(said ? 1 : 2);
    }
    std::_Exit(0);
  }
  ::close(ends[1]);
  long at = 0;
  std::string why;
  for (long next; ::read(ends[0], &next, sizeof next) == sizeof next && next >= 0;) at = next;
  char text[256];
  for (ssize_t n; (n = ::read(ends[0], text, sizeof text)) > 0;)
    why.append(text, static_cast<std::size_t>(n));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(id, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  if (WIFSIGNALED(status))
    why = WTERMSIG(status) == SIGALRM ? "it hangs" : ::strsignal(WTERMSIG(status));
  return std::pair{at, why};
}

int report(node program, const std::string& why, bool cut_down) {
  // What fails once in a while is run often.
  auto const fails = [](const node& one) {
    return first_failure(50, [&](long) { return one; }, 2).has_value();
  };
  if (cut_down) program = minimise(std::move(program), fails);
  std::cout << "# " << why << '\n' << text_of(program);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  long seed = 1, count = 1000;
  bool cut_down = true;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string_view const word = argv[i];
    if (word == "--seed") seed = std::atol(argv[i + 1]);
    if (word == "--count") count = std::atol(argv[i + 1]);
    if (word == "--cut-down") cut_down = std::strcmp(argv[i + 1], "no") != 0;
    if (word == "--show") {
      std::cout << text_of(maker{static_cast<std::uint64_t>(std::atol(argv[i + 1]))}.make());
      return 0;
    }
    if (word == "--replay") {
      std::stringstream text;
      text << std::ifstream{argv[i + 1]}.rdbuf();
      std::string const all = text.str();
      for (reader programs{all}; programs.more();) {
        node const one = programs.read();
        if (auto const why = first_failure(100, [&](long) { return one; }, 10))
          return report(one, why->second, false);
      }
      return 0;
    }
  }
  auto const make = [&](long i) { return maker{static_cast<std::uint64_t>(seed + i)}.make(); };
  if (auto const why = first_failure(count, make, 20))
    return report(make(why->first), why->second + ", seed " + std::to_string(seed + why->first),
                  cut_down);
  std::cout << count << " programs from seed " << seed << ": all as they must be\n";
  return 0;
}
