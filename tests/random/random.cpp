// SPDX-License-Identifier: BSL-1.0
// Random programs, run by the library and judged by a reference; see README.md.
//
//   random --corpus FILE              the programs that once failed, all of them
//   random --seed S --count N         N programs, from seed S on
//   random --seconds T                as many as there is time for, from a seed of the clock's
//   random --show SEED                prints the program of a seed
//   random --replay FILE              runs the programs of FILE, and shows what each did
//
// A program that fails is cut down, unless `--cut-down no` came before, and printed as FILE and the
// corpus want it. Exit status 1; 77 where an executor cannot be made.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <memory>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#include <iowq/iowq.hpp>

#include "library.hpp"
#include "program.hpp"
#include "reference.hpp"

namespace {

using namespace iowq_random;

world* running = nullptr;
bool cuts_down = true;

iowq::executor_options options() {
  iowq::executor_options made;
  made.pool.max_workers = {2, 2};
  made.on_unhandled = [](const std::exception_ptr& error) {
    running->note({.how = step::unhandled, .end = outcome_of(error)});
  };
  return made;
}

std::string run_and_judge(iowq::executor& here, const node& program, bool show = false) {
  auto all = std::make_unique<world>();
  running = all.get();
  run_program(here, *all, program);
  if (show)
    for (const step& s : all->log) std::cout << "    " << text_of(s) << '\n';
  return judge(all->log, all->calls);
}

/// A child runs programs, so that one that stops the process, or hangs, is a failure like another.
class child {
 public:
  child() {
    void* const shared =
        ::mmap(nullptr, sizeof(report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) std::abort();
    report_ = ::new (shared) report{};
  }
  child(const child&) = delete;
  child& operator=(const child&) = delete;
  ~child() { ::munmap(report_, sizeof(report)); }

  /// Runs `make(0)` to `make(count - 1)`. -1, or the index of the first that failed.
  template <class Make>
  long run(long count, Make&& make, bool quietly = false) {
    *report_ = {};
    std::cout.flush();
    pid_t const pid = ::fork();
    if (pid < 0) std::abort();
    if (pid == 0) {
      rlimit const no_core{0, 0};
      ::setrlimit(RLIMIT_CORE, &no_core);
      if (quietly) static_cast<void>(std::freopen("/dev/null", "w", stderr));
      std::_Exit(run_here(count, make));
    }
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return -1;
    if (WIFSIGNALED(status)) std::strcpy(report_->text, "it stops the process\n");
    return report_->at;
  }
  [[nodiscard]] std::string why() const { return report_->text; }
  /// How many seconds a program of milliseconds may take.
  void patience(unsigned seconds) noexcept { patience_ = seconds; }

 private:
  struct report {
    long at = 0;
    char text[8000] = {};
  };
  static inline report* here_ = nullptr;

  /// Not what a handler may do, but there is nothing to be lost.
  static void hangs(int) {
    std::string const text = "it hangs\n" + last_steps(running->log, running->log.size() - 1);
    text.copy(here_->text, sizeof here_->text - 1);
    std::_Exit(1);
  }

  template <class Make>
  int run_here(long count, Make& make) {
    here_ = report_;
    std::signal(SIGALRM, &hangs);
    iowq::executor here{options()};
    for (long i = 0; i < count; ++i) {
      report_->at = i;
      ::alarm(patience_);
      std::string const problem = run_and_judge(here, make(i));
      if (problem.empty()) continue;
      problem.copy(report_->text, sizeof report_->text - 1);
      return 1;
    }
    return 0;
  }

  report* report_;
  unsigned patience_ = 20;
};

/// Cuts `program` down and prints it.
void explain(child& runs, const node& program, const std::string& why, const std::string& title) {
  constexpr long attempts = 20;  // what depends on the time fails now and then
  auto const fails = [&](const node& candidate) {
    return runs.run(attempts, [&](long) { return candidate; }, true) >= 0;
  };
  std::cout << title << ": " << why << '\n';
  runs.patience(2);
  node least = program;
  if (!cuts_down) {
    std::cout << "(as it was made)\n";
  } else if (fails(program)) {
    least = minimise(program, fails);
    if (runs.run(attempts, [&](long) { return least; }, true) >= 0)
      std::cout << "cut down: " << runs.why();
  } else {
    std::cout << "(it did not fail again by itself)\n";
  }
  std::cout << "# " << title << '\n' << text_of(least) << std::flush;
}

/// True: all went well.
bool run_seeds(std::uint64_t first, long count) {
  child runs;
  auto const program = [first](long i) {
    return generator{first + static_cast<std::uint64_t>(i)}.make();
  };
  long const failed = runs.run(count, program);
  if (failed < 0) return true;
  explain(runs, program(failed), runs.why(),
          "seed " + std::to_string(first + static_cast<std::uint64_t>(failed)));
  return false;
}

bool run_for(std::chrono::seconds time) {
  auto const end = std::chrono::steady_clock::now() + time;
  auto seed = static_cast<std::uint64_t>(
      std::chrono::system_clock::now().time_since_epoch().count() / 1000);
  long programs = 0;
  bool well = true;
  for (; well && std::chrono::steady_clock::now() < end; programs += 500, seed += 500)
    well = run_seeds(seed, 500);
  std::cout << programs << " programs\n";
  return well;
}

std::vector<node> read_programs(const std::string& path) {
  std::ifstream file{path};
  if (!file) throw std::runtime_error("cannot read " + path);
  std::stringstream text;
  text << file.rdbuf();
  std::string const all = text.str();
  std::vector<node> programs;
  for (reader next{all}; next.more();) programs.push_back(next.read());
  return programs;
}

bool run_corpus(const std::string& path) {
  constexpr long times = 20;
  auto const programs = read_programs(path);
  child runs;
  for (std::size_t i = 0; i < programs.size(); ++i) {
    if (runs.run(times, [&](long) { return programs[i]; }) < 0) continue;
    std::cout << path << ": program " << i + 1 << ": " << runs.why() << text_of(programs[i]);
    return false;
  }
  std::cout << programs.size() << " programs of the corpus\n";
  return true;
}

int replay(const std::string& path) {
  iowq::executor here{options()};
  bool well = true;
  for (const node& program : read_programs(path)) {
    std::cout << text_of(program);
    std::string const problem = run_and_judge(here, program, true);
    std::cout << (problem.empty() ? "as it should be\n" : problem);
    well = well && problem.empty();
  }
  return well ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) try {
  try {
    iowq::executor const here{options()};
  } catch (const std::system_error& error) {
    std::cout << "skipped: all of " << argv[0] << ": " << error.what() << '\n';
    return 77;
  }
  std::uint64_t seed = 1;
  long count = 0;
  bool well = true;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string const option = argv[i], value = argv[i + 1];
    if (option == "--seed") {
      seed = std::stoull(value);
    } else if (option == "--count") {
      count = std::stol(value);
    } else if (option == "--corpus") {
      well = well && run_corpus(value);
    } else if (option == "--seconds") {
      well = well && run_for(std::chrono::seconds{std::stol(value)});
    } else if (option == "--show") {
      std::cout << text_of(generator{std::stoull(value)}.make());
    } else if (option == "--cut-down") {
      cuts_down = value != "no";
    } else if (option == "--replay") {
      return replay(value);
    } else {
      std::cerr << "random: no option is called " << option << '\n';
      return 2;
    }
  }
  // In batches: a child each, so that programs also follow others on one executor.
  constexpr long batch = 500;
  for (long done = 0; well && done < count; done += batch)
    well = run_seeds(seed + static_cast<std::uint64_t>(done), std::min(batch, count - done));
  if (count != 0 && well) std::cout << count << " programs, from seed " << seed << " on\n";
  return well ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << "random: " << error.what() << '\n';
  return 2;
}
