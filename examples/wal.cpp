// SPDX-License-Identifier: BSL-1.0
// A write-ahead log: many writers append to a few logs, and an append returns when its record is on
// the disk. Writers that arrive while a log is being written wait for the next batch, and one
// fdatasync serves the whole batch. So the more writers there are, the less each of them pays.
//
// A log is locked while a process writes it; readers need no lock. When a log is opened for
// writing, the torn end that a crash left is cut off. Damage that has acknowledged records behind
// it is never cut off: the program names the place and refuses to write. wal_format.hpp says how
// the two are told apart.
#include <fcntl.h>
#include <sys/file.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <deque>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include <iowq/iowq.hpp>

#include "report.hpp"
#include "wal_format.hpp"

namespace {

class write_ahead_log {
 public:
  explicit write_ahead_log(std::string path, std::uint64_t key)
      : path_{std::move(path)}, key_{key} {}

  /// Locks and examines the log, and changes nothing. Throws if it cannot be written.
  iowq::task<> open() {
    file_ = co_await iowq::open(path_, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    auto const locked = co_await iowq::as_result(iowq::flock(file_, LOCK_EX | LOCK_NB));
    if (!locked && locked.error() == std::errc::operation_would_block)
      throw std::runtime_error(path_ + ": another process is writing this log");
    if (!locked) throw std::system_error{locked.error(), path_};
    std::string const found = co_await iowq::read_all(file_);
    found_ = wal::examine(found, [](std::uint64_t, std::string_view) {});
    if (wal::is_refused(found_))
      throw std::runtime_error(path_ + ": " + wal::problem_of(found_) + "; nothing was changed");
    torn_ = found.size() - found_.whole;
  }

  /// Cuts off a torn end and flushes the log. A record that was written but not flushed when its
  /// writer died must be on the disk before the next batch is.
  iowq::task<> repair() {
    if (torn_ != 0) {
      std::cerr << path_ << ": " << torn_ << " bytes were torn\n";
      co_await iowq::ftruncate(file_, static_cast<std::int64_t>(found_.whole));
    }
    if (!found_.head) {
      found_.head = wal::new_file_head();
      std::string_view const bytes{reinterpret_cast<const char*>(&*found_.head),
                                   sizeof(wal::file_head)};
      co_await iowq::write_all(file_, bytes);
    }
    format_.emplace(*found_.head);
    next_ = found_.next;
    co_await iowq::fdatasync(file_);
  }

  /// Returns the record's number when the record is on the disk. Throws if it could not be written;
  /// the log then accepts no more records.
  iowq::task<std::uint64_t> append(std::string_view bytes) {
    if (broken_) throw std::system_error{broken_, path_};
    if (bytes.size() > wal::largest_record)
      throw std::system_error{std::make_error_code(std::errc::message_size), path_};
    std::shared_ptr<batch> const mine = filling_;
    std::uint64_t const number = next_++;
    if (mine->bytes.empty()) mine->first = number;
    format_->append(mine->bytes, number, mine->first, bytes);
    // The first writer of a batch to get the lock writes the batch for all its writers.
    auto const turn = co_await one_writes_.lock();
    if (!mine->over) {
      filling_ = std::make_shared<batch>();  // later writers join the next batch
      // A stop of this writer must not tear the records of the others.
      auto written = iowq::as_result(iowq::with_stop({}, write(mine->bytes)));
      if (auto const done = co_await written; !done) broken_ = mine->error = done.error();
      mine->over = true;
    }
    if (mine->error) throw std::system_error{mine->error, path_};
    co_return number;
  }

  [[nodiscard]] std::uint64_t batches() const noexcept { return batches_; }

 private:
  struct batch {
    std::string bytes;
    std::uint64_t first = 0;
    bool over = false;
    std::error_code error;
  };

  iowq::task<> write(std::string_view bytes) {
    // After a failure no write is retried: the kernel may have dropped exactly the pages that it
    // could not write.
    if (broken_) throw std::system_error{broken_};
    ++batches_;
    co_await iowq::write_all(file_, bytes);
    auto sync = iowq::hashed(key_, iowq::fdatasync(file_));
    co_await sync;
  }

  std::string path_;
  std::uint64_t key_;
  iowq::fd file_;
  wal::survey found_;
  std::size_t torn_ = 0;
  std::optional<wal::format> format_;
  std::uint64_t next_ = 0;
  iowq::mutex one_writes_;
  std::shared_ptr<batch> filling_ = std::make_shared<batch>();
  std::error_code broken_;
  std::uint64_t batches_ = 0;
};

struct options {
  std::string directory;
  unsigned logs = 4, writers = 64;
  std::uint64_t records = 1000;  // for each writer
  std::size_t size = 100;
};

std::string path_of(const options& wanted, unsigned log) {
  return wanted.directory + "/" + std::to_string(log) + ".wal";
}

/// Appends the records of one writer, and prints a line for each record once it is acknowledged.
iowq::task<> write_records(const options& wanted, std::deque<write_ahead_log>& logs,
                           unsigned writer) {
  for (std::uint64_t n = 0; n != wanted.records; ++n) {
    unsigned const log = static_cast<unsigned>((writer + n) % wanted.logs);
    std::string text = std::to_string(writer) + ' ' + std::to_string(n) + ' ';
    text.append(static_cast<std::size_t>((std::uint64_t{writer} * 31 + n * 7) % (wanted.size + 1)),
                'x');
    std::uint64_t const number = co_await logs[log].append(text);
    std::string const line = std::to_string(log) + ' ' + std::to_string(number) + ' ' + text + '\n';
    co_await iowq::write_all(STDOUT_FILENO, line);
  }
}

/// Opens the first `count` logs. No log is changed unless all of them can be written.
iowq::task<> open_logs(const options& wanted, unsigned count, std::deque<write_ahead_log>& logs) {
  for (unsigned log = 0; log < count; ++log) {
    logs.emplace_back(path_of(wanted, log), log);
    co_await logs.back().open();
  }
  for (write_ahead_log& log : logs) co_await log.repair();
  // The directory entries of the files must also be on the disk.
  iowq::fd const directory = co_await iowq::open(wanted.directory, O_RDONLY | O_DIRECTORY);
  co_await iowq::fsync(directory);
}

/// Appends standard input as one record to the first log.
iowq::task<> append_input(const options& wanted) {
  std::deque<write_ahead_log> logs;
  co_await open_logs(wanted, 1, logs);
  std::string const payload = co_await iowq::read_all(STDIN_FILENO);
  std::uint64_t const number = co_await logs.front().append(payload);
  std::string const line = "0 " + std::to_string(number) + '\n';
  co_await iowq::write_all(STDOUT_FILENO, line);
}

iowq::task<> write_all_logs(const options& wanted) {
  std::deque<write_ahead_log> logs;
  co_await open_logs(wanted, wanted.logs, logs);
  auto const write = [&](unsigned writer) { return write_records(wanted, logs, writer); };
  co_await iowq::for_each(std::views::iota(0U, wanted.writers), wanted.writers, write);
  std::uint64_t batches = 0;
  for (const write_ahead_log& log : logs) batches += log.batches();
  std::cerr << wanted.records * wanted.writers << " records in " << batches << " batches\n";
}

/// Prints every whole record in front of the first one that is torn or damaged; changes nothing.
/// Returns false if a log is damaged.
iowq::task<bool> read_log(const std::string& path, unsigned log) {
  auto opened = co_await iowq::as_result(iowq::open(path, O_RDONLY | O_CLOEXEC));
  if (!opened) {
    if (opened.error() == std::errc::no_such_file_or_directory) co_return true;
    throw std::system_error{opened.error(), path};
  }
  iowq::fd const file = *std::move(opened);
  std::string const found = co_await iowq::read_all(file);
  auto const print = [log](std::uint64_t number, std::string_view text) {
    std::cout << log << ' ' << number << ' ' << text << '\n';
  };
  wal::survey const result = wal::examine(found, print);
  if (wal::is_refused(result)) {
    std::cerr << "wal: " << path << ": " << wal::problem_of(result) << '\n';
    co_return false;
  }
  if (result.whole != found.size())
    std::cerr << path << ": " << found.size() - result.whole << " bytes are torn\n";
  co_return true;
}

iowq::task<bool> read_logs(const options& wanted) {
  bool whole = true;
  for (unsigned log = 0; log < wanted.logs; ++log) {
    std::string const path = path_of(wanted, log);
    bool const fine = co_await read_log(path, log);
    whole = whole && fine;
  }
  co_return whole;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli{"Writes records to a few logs so that a crash loses none that was acknowledged."};
  options wanted;
  cli.add_option("--logs", wanted.logs, "how many")->check(CLI::Range(1U, 1000U));
  auto* const write = cli.add_subcommand("write", "appends, and says what is on the disk");
  auto* const append = cli.add_subcommand("append", "appends standard input as one record");
  auto* const read = cli.add_subcommand("read", "prints what is there; 1 if a log is damaged");
  cli.require_subcommand(1)->fallthrough();
  write->add_option("directory", wanted.directory, "where the logs are")->required();
  append->add_option("directory", wanted.directory, "where the logs are")->required();
  read->add_option("directory", wanted.directory, "where the logs are")->required();
  write->add_option("--writers", wanted.writers, "at once")->check(CLI::Range(1U, 100'000U));
  write->add_option("--records", wanted.records, "of each writer");
  write->add_option("--size", wanted.size, "of a record, at most")->check(CLI::Range(0U, 1U << 20));
  CLI11_PARSE(cli, argc, argv);
  try {
    iowq::executor executor;
    if (read->parsed()) return executor.run(read_logs(wanted)) ? 0 : 1;
    executor.run(write->parsed() ? write_all_logs(wanted) : append_input(wanted));
    if (write->parsed()) example::print_where_the_work_went(std::cerr, executor.stats());
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "wal: " << error.what() << '\n';
    return 1;
  }
}
