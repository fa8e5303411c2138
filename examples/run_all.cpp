// SPDX-License-Identifier: BSL-1.0
// Runs command lines with the shell, at most `--jobs` at a time: the arguments, or the lines of
// standard input. The output of a command is collected and printed as a whole, in the order of the
// input, as soon as all outputs before it are printed. So the memory needed is that of the commands
// in progress.
//     run_all --jobs 8 < commands
//     run_all "make -C a" "make -C b"
#include <CLI/CLI.hpp>
#include <cstddef>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <iowq/iowq.hpp>

namespace {

struct options {
  std::vector<std::string> commands;
  std::size_t jobs = 4;
};

struct outcome {
  std::string command;
  std::string output;
  iowq::exit_status status;
};

/// Runs `command`, and returns its status and everything it wrote to stdout and stderr.
iowq::task<outcome> run_one(const std::string& command) {
  auto ends = co_await iowq::pipe();
  iowq::fd const nothing = co_await iowq::open("/dev/null", O_RDONLY);
  auto spawn = iowq::spawn_process(
      {"sh", "-c", command},
      {.in = nothing.get(), .out = ends.second.get(), .err = ends.second.get()});
  iowq::process const child = co_await std::move(spawn);
  co_await iowq::close(std::move(ends.second));  // else read_all() never sees end of file
  std::string output = co_await iowq::read_all(ends.first);
  auto const status = co_await iowq::wait_for(child);
  co_return outcome{command, std::move(output), status};
}

void complain(const outcome& one) {
  std::cerr << "run_all: " << one.command << ": ";
  if (one.status.exited())
    std::cerr << "exit " << one.status.code() << '\n';
  else
    std::cerr << "signal " << one.status.signal() << '\n';
}

/// Runs all commands, and returns how many failed.
iowq::task<int> run_all(const options& wanted) {
  std::vector<std::string> commands = wanted.commands;
  if (commands.empty()) {
    std::istringstream lines{co_await iowq::read_all(STDIN_FILENO)};
    for (std::string line; std::getline(lines, line);)
      if (!line.empty()) commands.push_back(std::move(line));
  }
  int failed = 0;
  auto outcomes = iowq::transform(commands, wanted.jobs, run_one);
  while (auto one = co_await outcomes.next()) {
    co_await iowq::write_all(STDOUT_FILENO, one->output);
    if (one->status.success()) continue;
    complain(*one);
    ++failed;
  }
  co_return failed;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Runs command lines, so many at a time", "run_all"};
  options wanted;
  app.add_option("commands", wanted.commands, "command lines; none: one a line of the input");
  app.add_option("-j,--jobs", wanted.jobs, "at a time")
      ->check(CLI::Range(1U, 4096U))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return iowq::run(run_all(wanted)) == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << "run_all: " << error.what() << '\n';
    return 1;
  }
}
