// SPDX-License-Identifier: BSL-1.0
// Loads with a fixed number of items in flight, through the pool and through the executor.
#pragma once

#include <cstdint>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include <iowq/iowq.hpp>

#include "machine.hpp"
#include "owner.hpp"
#include "ratio.hpp"

namespace bench {

/// How a load uses the pool.
struct manner {
  iowq::pool_options pool = {};
  iowq::work_flags flags = {.brief = true};
  bool chained = true;  // enqueue the items due at a wake-up as one chain
  unsigned submitters = 1;
};

[[nodiscard]] inline iowq::pool_options workers(unsigned most) {
  iowq::pool_options options;
  options.max_workers.bound = most;
  return options;
}
[[nodiscard]] inline iowq::pool_options without_spin(iowq::pool_options options) {
  options.spin = {};
  return options;
}

/// Keeps `depth` items in flight. They are divided among the submitters, and each submitter has its
/// own owner. An item calls `call(slot)`; the slots of different submitters differ. If the call has
/// a key(), each item gets a key before it is enqueued.
template <class Call>
class pool_load {
 public:
  pool_load(const manner& how, unsigned depth, Call call) : how_{how}, pool_{how.pool} {
    unsigned const each = depth / how.submitters;
    for (unsigned i = 0; i < how.submitters; ++i)
      submitters_.emplace_back(*this, each, i * each, call);
  }

  ratio::tally run(std::uint64_t operations) {
    ratio::tally const before = count();
    std::uint64_t const each = operations / submitters_.size();
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i < submitters_.size(); ++i)
      threads.emplace_back([this, i, each] { submitters_[i].run(each); });
    submitters_[0].run(each);
    for (std::thread& one : threads) one.join();
    ratio::tally after = count();
    for (auto& [name, n] : after.counts) n -= before.counts.at(name);
    after.operations = each * submitters_.size();
    return after;
  }

  [[nodiscard]] iowq::pool& pool() noexcept { return pool_; }

 private:
  struct item final : iowq::work, owner::node {
    item(iowq::work_flags flags, owner& o, unsigned s, Call c)
        : work{flags}, home{&o}, slot{s}, call{c} {}
    void execute(const iowq::stop_token&) noexcept override { call(slot); }
    void finished(bool) noexcept override { home->post(*this); }
    owner* home;
    unsigned slot;
    Call call;
  };

  struct submitter {
    submitter(pool_load& load, unsigned depth, unsigned first_slot, Call call)
        : all{load},
          home{machine::processors().size() > 1 ? load.how_.pool.spin
                                                : std::chrono::nanoseconds{}} {
      for (unsigned i = 0; i < depth; ++i)
        items.emplace_back(load.how_.flags, home, first_slot + i, call);
    }
    void run(std::uint64_t operations) {
      iowq::work_chain chain;
      std::uint64_t begun = 0, done = 0;
      auto begin = [&](item& one) {
        ++begun;
        if constexpr (requires { one.call.key(); }) one.flags({.key = one.call.key()});
        if (all.how_.chained)
          chain.push_back(one);
        else
          all.pool_.enqueue(one);
      };
      for (item& one : items)
        if (begun < operations) begin(one);
      while (done < operations) {
        all.pool_.enqueue(chain);
        for (owner::node* next = home.wait(); next != nullptr; ++done) {
          auto& back = static_cast<item&>(*next);
          next = next->next_back;
          if (begun < operations) begin(back);
        }
      }
    }
    pool_load& all;
    owner home;
    std::deque<item> items;  // items must not move
  };

  [[nodiscard]] ratio::tally count() const {
    iowq::pool_stats const stats = pool_.stats();
    ratio::tally now{0, {{"wakes", stats.wakes}, {"unparks", stats.unparks}}};
    for (const submitter& one : submitters_) {
      now.counts["kicks"] += one.home.kicks();
      now.counts["sleeps"] += one.home.sleeps();
    }
    return now;
  }

  manner how_;
  iowq::pool pool_;
  std::deque<submitter> submitters_;
};

/// Keeps `depth` coroutines running, each of which awaits `make(slot)` repeatedly.
template <class Make>
class executor_load {
 public:
  executor_load(const iowq::pool_options& pool, unsigned depth, Make make)
      : here_{{.pool = pool}}, depth_{depth}, make_{make} {}

  ratio::tally run(std::uint64_t operations) {
    iowq::executor_stats const before = here_.stats();
    here_.run(all(operations / depth_));
    iowq::executor_stats const after = here_.stats();
    return {operations / depth_ * depth_,
            {{"wakes", after.pool.wakes - before.pool.wakes},
             {"unparks", after.pool.unparks - before.pool.unparks},
             {"kicks", after.pool.kicks - before.pool.kicks},
             {"enters", after.entered - before.entered}}};
  }

 private:
  iowq::task<> all(std::uint64_t each) {
    for (unsigned slot = 1; slot < depth_; ++slot) here_.spawn(one(slot, each));
    co_await one(0, each);
  }
  iowq::task<> one(unsigned slot, std::uint64_t n) {
    for (; n != 0; --n) co_await make_(slot);
  }

  iowq::executor here_;
  unsigned depth_;
  Make make_;
};

/// Measures one way to do something, with one submitter: it is constructed anew for each sample,
/// run once to warm up, and then measured.
template <class Make>
void add(const std::string& name, std::uint64_t operations, Make make,
         ratio::crosses what = ratio::crosses::evenly) {
  ratio::add(name, [operations, make, what](benchmark::State& state) {
    auto way = make();
    way->run(operations / 4);
    ratio::measure(state, what, [&] { return way->run(operations); });
  });
}

}  // namespace bench
