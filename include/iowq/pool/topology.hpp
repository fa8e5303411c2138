// SPDX-License-Identifier: BSL-1.0
// iowq/pool/topology.hpp -- the NUMA nodes of the machine, their processors and their distances.
//
// Until Linux 6.4 io-wq had one queue for each NUMA node. It gave them up because a task rarely
// changes its node. This pool has a queue for each node, but avoids the faults of the kernel's
// design: limits, keys and cancellation apply to the whole pool, and a worker without work takes
// items from other nodes, nearest first.
#pragma once

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <tuple>
#include <vector>

#include <iowq/base/policy.hpp>

namespace iowq::inline v0 {

/// A set of processors, as for sched_setaffinity(2). Numbers outside 0 .. 1023 are ignored.
class cpu_set {
 public:
  static constexpr unsigned capacity = CPU_SETSIZE;

  cpu_set() noexcept { CPU_ZERO(&cpus_); }
  cpu_set(std::initializer_list<unsigned> cpus) noexcept : cpu_set() {
    for (unsigned const cpu : cpus) add(cpu);
  }
  explicit cpu_set(const cpu_set_t& cpus) noexcept : cpus_{cpus} {}

  /// The affinity of the calling thread; empty if the machine has more processors than the set can
  /// hold.
  template <class Policy>
  [[nodiscard]] static cpu_set of_caller() noexcept {
    cpu_set own;
    if (!Policy::affinity(own.cpus_)) CPU_ZERO(&own.cpus_);
    return own;
  }

  void add(unsigned cpu) noexcept {
    if (cpu < capacity) CPU_SET(cpu, &cpus_);
  }
  [[nodiscard]] bool contains(unsigned cpu) const noexcept {
    return cpu < capacity && CPU_ISSET(cpu, &cpus_);
  }
  [[nodiscard]] unsigned count() const noexcept { return static_cast<unsigned>(CPU_COUNT(&cpus_)); }
  [[nodiscard]] bool empty() const noexcept { return count() == 0; }
  [[nodiscard]] const cpu_set_t& native() const noexcept { return cpus_; }

  friend cpu_set operator&(const cpu_set& a, const cpu_set& b) noexcept {
    cpu_set both;
    CPU_AND(&both.cpus_, &a.cpus_, &b.cpus_);
    return both;
  }
  friend bool operator==(const cpu_set& a, const cpu_set& b) noexcept {
    return CPU_EQUAL(&a.cpus_, &b.cpus_);
  }

  /// Parses the kernel's notation: "0-3,8,10-11". Parsing stops at the first invalid character.
  [[nodiscard]] static cpu_set parse(const char* text) noexcept {
    cpu_set cpus;
    for (char* end = nullptr;; text = end + 1) {
      unsigned long const first = std::strtoul(text, &end, 10);
      if (end == text) return cpus;
      unsigned long last = first;
      if (*end == '-') {
        text = end + 1;
        last = std::strtoul(text, &end, 10);
        if (end == text) return cpus;
      }
      for (unsigned long cpu = first; cpu <= last && cpu < capacity; ++cpu)
        cpus.add(static_cast<unsigned>(cpu));
      if (*end != ',') return cpus;
    }
  }

 private:
  cpu_set_t cpus_;
};

/// The NUMA nodes of the machine, or nodes that a test invents. Has at least one node once
/// resolved.
class topology {
 public:
  static constexpr unsigned max_nodes = 64;

  /// The machine's own topology, which is read when a pool is constructed.
  [[nodiscard]] static topology system() noexcept { return {}; }

  /// Makes one node of each set of processors. The distance of two nodes is the difference of their
  /// numbers. Sets beyond max_nodes are ignored.
  [[nodiscard]] static topology of(std::initializer_list<cpu_set> nodes) {
    topology made;
    for (const cpu_set& cpus : nodes)
      if (made.cpus_.size() < max_nodes) made.cpus_.push_back(cpus);
    made.sort_by([](unsigned a, unsigned b) { return a > b ? a - b : b - a; });
    return made;
  }

  /// Reads the nodes from sysfs, under `root`. Leaves out nodes that are offline or have no
  /// processors: memory alone needs no queue. Without sysfs, or with fewer than two nodes, all
  /// processors are one node.
  template <class Policy = detail::linux_policy>
  [[nodiscard]] static topology read(const char* root = "/sys/devices/system/node") {
    topology found;
    std::vector<unsigned> numbers;
    std::vector<std::vector<unsigned>> distances;
    char path[256], text[4096];
    std::snprintf(path, sizeof path, "%s/online", root);
    cpu_set online;  // a set of nodes: the file uses the notation of CPU lists
    if (Policy::read_text(path, text, sizeof text) > 0) online = cpu_set::parse(text);
    for (unsigned node = 0; node < cpu_set::capacity && numbers.size() < max_nodes; ++node) {
      if (!online.contains(node)) continue;
      std::snprintf(path, sizeof path, "%s/node%u/cpulist", root, node);
      if (Policy::read_text(path, text, sizeof text) <= 0) continue;
      cpu_set const cpus = cpu_set::parse(text);
      if (cpus.empty()) continue;
      std::snprintf(path, sizeof path, "%s/node%u/distance", root, node);
      if (Policy::read_text(path, text, sizeof text) <= 0) text[0] = 0;
      found.cpus_.push_back(cpus);
      numbers.push_back(node);
      distances.push_back(parse_numbers(text));
    }
    if (found.cpus_.size() < 2) return of({cpu_set{}});
    // The columns of `distance` are the online nodes in order, those without processors included.
    auto column = [&](unsigned index) {
      unsigned before = 0;
      for (unsigned node = 0; node < numbers[index]; ++node) before += online.contains(node);
      return before;
    };
    found.sort_by([&](unsigned a, unsigned b) {
      unsigned const c = column(b);
      return c < distances[a].size() ? distances[a][c] : 255u;
    });
    return found;
  }

  /// Returns a copy, or the machine's topology if this is system().
  template <class Policy = detail::linux_policy>
  [[nodiscard]] topology resolve() const {
    return cpus_.empty() ? read<Policy>() : *this;
  }

  [[nodiscard]] unsigned size() const noexcept { return static_cast<unsigned>(cpus_.size()); }
  [[nodiscard]] const cpu_set& cpus(unsigned node) const noexcept { return cpus_[node]; }

  /// All nodes, `node` itself first, then the others from near to far.
  [[nodiscard]] const std::vector<std::uint8_t>& near(unsigned node) const noexcept {
    return near_[node];
  }
  /// The node of a processor; 0 for a processor that is in no node.
  [[nodiscard]] unsigned node_of(unsigned cpu) const noexcept {
    return cpu < node_of_cpu_.size() ? node_of_cpu_[cpu] : 0u;
  }

 private:
  static std::vector<unsigned> parse_numbers(const char* text) {
    std::vector<unsigned> numbers;
    for (char* end = nullptr;; text = end) {
      unsigned long const number = std::strtoul(text, &end, 10);
      if (end == text) return numbers;
      numbers.push_back(static_cast<unsigned>(number));
    }
  }

  template <class Distance>
  void sort_by(Distance distance) {
    for (unsigned node = 0; node < size(); ++node) {
      std::vector<std::uint8_t>& order = near_.emplace_back();
      for (unsigned other = 0; other < size(); ++other)
        order.push_back(static_cast<std::uint8_t>(other));
      std::sort(order.begin(), order.end(), [&](unsigned a, unsigned b) {
        return std::tuple{a != node, distance(node, a), a} <
               std::tuple{b != node, distance(node, b), b};
      });
      for (unsigned cpu = 0; size() > 1 && cpu < cpu_set::capacity; ++cpu) {
        if (!cpus_[node].contains(cpu)) continue;
        node_of_cpu_.resize(cpu_set::capacity);
        node_of_cpu_[cpu] = static_cast<std::uint8_t>(node);
      }
    }
  }

  std::vector<cpu_set> cpus_;
  std::vector<std::vector<std::uint8_t>> near_;
  std::vector<std::uint8_t> node_of_cpu_;
};

}  // namespace iowq::inline v0
