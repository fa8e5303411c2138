// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/topology.hpp>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace {
using iowq::cpu_set;
using iowq::topology;
namespace fs = std::filesystem;

/// A directory like /sys/devices/system/node, gone at the end of the scope.
class fake_sysfs {
 public:
  fake_sysfs() {
    std::string name = fs::temp_directory_path() / "iowq-nodes-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    root_ = name;
  }
  fake_sysfs(const fake_sysfs&) = delete;
  fake_sysfs& operator=(const fake_sysfs&) = delete;
  ~fake_sysfs() { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream{root_ / file} << text << '\n';
  }
  topology read() const { return topology::read(root_.c_str()); }

 private:
  fs::path root_;
};
}  // namespace

TEST_SUITE("pool/topology") {
  TEST_CASE("the kernel's lists of processors are understood, nonsense ends them") {
    CHECK(cpu_set::parse("0-2,5,8-9\n") == cpu_set{0, 1, 2, 5, 8, 9});
    CHECK(cpu_set::parse("\n").empty());
    CHECK(cpu_set::parse("3,x") == cpu_set{3});
    CHECK(cpu_set::parse("1020-2000").count() == 4);
    CHECK((cpu_set{1, 2} & cpu_set{2, 3}) == cpu_set{2});
    CHECK(cpu_set{4000}.empty());
  }

  TEST_CASE("nodes come from sysfs, nearest first by its distances") {
    fake_sysfs sysfs;
    sysfs.write("online", "0-2");
    sysfs.write("node0/cpulist", "0-1");
    sysfs.write("node0/distance", "10 30 20");
    sysfs.write("node1/cpulist", "2");
    sysfs.write("node1/distance", "30 10 20");
    sysfs.write("node2/cpulist", "3");
    sysfs.write("node2/distance", "20 20 10");
    topology const nodes = sysfs.read();
    REQUIRE(nodes.size() == 3);
    CHECK(nodes.cpus(0) == cpu_set{0, 1});
    CHECK(nodes.near(0) == std::vector<std::uint8_t>{0, 2, 1});
    CHECK(nodes.near(1) == std::vector<std::uint8_t>{1, 2, 0});
    CHECK(nodes.near(2) == std::vector<std::uint8_t>{2, 0, 1});
    CHECK(nodes.node_of(2) == 1);
    CHECK(nodes.node_of(500) == 0);
  }

  TEST_CASE("hazard-71: nodes without processors, and numbers left out, make no queue") {
    fake_sysfs sysfs;
    sysfs.write("online", "0,2-3");
    sysfs.write("node0/cpulist", "0");
    sysfs.write("node0/distance", "10 99 40");
    sysfs.write("node2/cpulist", "");  // memory only
    sysfs.write("node3/cpulist", "1");
    topology const nodes = sysfs.read();
    REQUIRE(nodes.size() == 2);
    CHECK(nodes.cpus(1) == cpu_set{1});
    CHECK(nodes.near(1) == std::vector<std::uint8_t>{1, 0});
  }

  TEST_CASE("without sysfs, or with one node, all processors are one node") {
    CHECK(topology::read("/nowhere").size() == 1);
    fake_sysfs sysfs;
    sysfs.write("online", "0");
    sysfs.write("node0/cpulist", "0-3");
    CHECK(sysfs.read().size() == 1);
    CHECK(topology::system().resolve().size() >= 1);
  }

  TEST_CASE("a made-up machine is taken as it is") {
    topology const nodes = topology::of({{0}, {1}, {2}, {3}}).resolve();
    REQUIRE(nodes.size() == 4);
    CHECK(nodes.node_of(3) == 3);
    CHECK(nodes.near(2) == std::vector<std::uint8_t>{2, 1, 3, 0});
  }
}
