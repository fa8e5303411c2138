// SPDX-License-Identifier: BSL-1.0
// Which executions of a model are looked at: all of them up to a number of deviations, depth
// first, each from its beginning; then some at random, without a bound. An execution is named by
// its choices that were not the first of their options, so that any one can be had again:
//
//     2:17=1,40=2/3,5   at most 2 deviations; choice 17 was option 1, choice 40 option 2; a turn
//                       comes before each access to the atomics 3 and 5
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "world.hpp"

namespace explore {

/// States that were reached, each with the most deviations that were left there. Open addressing;
/// a name is 61 bits, the rest is the number.
class states {
 public:
  static constexpr unsigned most_left = 7;

  void clear() {
    slots_.assign(slots_.empty() ? 1u << 16 : slots_.size(), 0);
    used_ = 0;
  }
  [[nodiscard]] std::size_t size() const noexcept { return used_; }

  /// True: it was reached before, and with no fewer left.
  bool reached(std::uint64_t state, unsigned left) {
    std::uint64_t const name = (mix(state) | 8) & ~std::uint64_t{7};
    for (std::size_t i = name >> 20;; ++i) {
      std::uint64_t& slot = slots_[i & (slots_.size() - 1)];
      if (slot == 0) {
        slot = name | left;
        if (++used_ * 2 > slots_.size()) grow();
        return false;
      }
      if ((slot & ~std::uint64_t{7}) != name) continue;
      if ((slot & 7) >= left) return true;
      slot = name | left;
      return false;
    }
  }

 private:
  void grow() {
    std::vector<std::uint64_t> old(slots_.size() * 2, 0);
    old.swap(slots_);
    for (std::uint64_t const one : old)
      if (one != 0) {
        std::size_t i = (one & ~std::uint64_t{7}) >> 20;
        while (slots_[i & (slots_.size() - 1)] != 0) ++i;
        slots_[i & (slots_.size() - 1)] = one;
      }
  }
  std::vector<std::uint64_t> slots_;
  std::size_t used_ = 0;
};

/// The choices of one execution, as they are made.
class path {
 public:
  void begin() noexcept { length_ = 0; }
  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  choice& operator[](std::size_t i) noexcept { return choices_[i]; }
  void add(choice one) {
    if (length_ == limit) here.fail("more than %zu choices in one execution", limit);
    choices_[length_++] = one;
  }
  /// Back to the last choice with an option that was not taken yet and can be afforded: takes
  /// that one. False: there is none.
  bool next() noexcept {
    while (length_ > 0) {
      choice& last = choices_[length_ - 1];
      for (unsigned option = last.taken + 1u; option < last.options; ++option)
        if (last.left > 0 || (last.costs >> option & 1) == 0) {
          last.taken = static_cast<std::uint8_t>(option);
          return true;
        }
      --length_;
    }
    return false;
  }
  [[nodiscard]] std::string name(unsigned bound) const {
    std::string text = std::to_string(bound) + ':';
    for (std::size_t i = 0; i < length_; ++i)
      if (choices_[i].taken != 0) {
        if (text.back() != ':') text += ',';
        text += std::to_string(i) + '=' + std::to_string(choices_[i].taken);
      }
    text += '/';
    here.each_shared([&](unsigned place) {
      if (text.back() != '/') text += ',';
      text += std::to_string(place);
    });
    return text;
  }

 private:
  static constexpr std::size_t limit = 20'000;
  std::size_t length_ = 0;
  choice choices_[limit];
};

/// Depth first, up to a number of deviations.
class depth_first : public chooser {
 public:
  path taken;

  /// False: there is no other execution.
  bool next() {
    if (!taken.next()) return false;
    fixed_ = taken.length();
    at_ = 0;
    return true;
  }
  void begin() {
    reached_.clear();
    taken.begin();
    fixed_ = at_ = 0;
  }
  void cut_nothing(bool so) noexcept { cuts_ = !so; }
  [[nodiscard]] std::size_t states_seen() const noexcept { return reached_.size(); }

  unsigned choose(unsigned options, std::uint32_t costs, unsigned left) override {
    if (at_ < fixed_) {
      choice const& again = taken[at_++];
      if (again.options != options || again.costs != costs)
        here.fail("the model did not do the same thing twice");
      return again.taken;
    }
    taken.add({0, static_cast<std::uint8_t>(options), static_cast<std::uint8_t>(left), costs});
    fixed_ = ++at_;
    return 0;
  }
  bool known(std::uint64_t state, unsigned left) override {
    if (at_ < fixed_ || !cuts_) return false;
    arena::entered const out{false};
    return reached_.reached(state, left);
  }

 private:
  states reached_;
  std::size_t fixed_ = 0;  // so many choices are made already
  std::size_t at_ = 0;
  bool cuts_ = true;
};

/// Somewhere, by a seed: some wander off often, some seldom.
class random_walk : public chooser {
 public:
  path taken;

  void begin(std::uint64_t seed) noexcept {
    taken.begin();
    random_ = mix(seed);
    static constexpr unsigned rates[] = {2, 4, 8, 16, 32, 64};
    rate_ = rates[draw() % 6];
  }
  unsigned choose(unsigned options, std::uint32_t costs, unsigned left) override {
    unsigned at_cost[32], free[32], nr_at_cost = 0, nr_free = 0;
    for (unsigned i = 0; i < options; ++i)
      if ((costs >> i & 1) != 0)
        at_cost[nr_at_cost++] = i;
      else
        free[nr_free++] = i;
    unsigned const picked = nr_at_cost > 0 && draw() % rate_ == 0 ? at_cost[draw() % nr_at_cost]
                                                                  : free[draw() % nr_free];
    taken.add({static_cast<std::uint8_t>(picked), static_cast<std::uint8_t>(options),
               static_cast<std::uint8_t>(left > 255 ? 255 : left), costs});
    return picked;
  }
  bool known(std::uint64_t, unsigned) override { return false; }

 private:
  unsigned draw() noexcept {
    random_ = mix(random_);
    return static_cast<unsigned>(random_ >> 33);
  }
  std::uint64_t random_ = 0;
  unsigned rate_ = 2;
};

/// One execution, by its name.
class replay : public chooser {
 public:
  explicit replay(const char* name) {
    char* end = nullptr;
    bound_ = static_cast<unsigned>(std::strtoul(name, &end, 10));
    while ((*end == ':' || *end == ',') && end[1] != '/') {
      std::size_t const at = std::strtoul(end + 1, &end, 10);
      if (*end != '=') return;
      unsigned const option = static_cast<unsigned>(std::strtoul(end + 1, &end, 10));
      if (taken_.size() <= at) taken_.resize(at + 1, 0);
      taken_[at] = option;
    }
    if (*end == ':') ++end;
    while ((*end == '/' || *end == ',') && end[1] != 0)
      here.share(static_cast<unsigned>(std::strtoul(end + 1, &end, 10)));
  }
  [[nodiscard]] unsigned bound() const noexcept { return bound_; }

  unsigned choose(unsigned options, std::uint32_t, unsigned) override {
    unsigned const option = at_ < taken_.size() ? taken_[at_] : 0;
    ++at_;
    if (option >= options) here.fail("this name is of another model, or of other code");
    return option;
  }
  bool known(std::uint64_t, unsigned) override { return false; }

 private:
  unsigned bound_ = 0;
  std::vector<unsigned> taken_;
  std::size_t at_ = 0;
};

}  // namespace explore
