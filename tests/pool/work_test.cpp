// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/work.hpp>

#include <optional>
#include <type_traits>

#include <doctest/doctest.h>

namespace {
struct nothing final : iowq::work {
  using iowq::work::work;
  void execute(const iowq::stop_token&) noexcept override {}
  void finished(bool) noexcept override {}
};
static_assert(sizeof(iowq::work) <= 64);
static_assert(std::is_nothrow_default_constructible_v<nothing>);
static_assert(std::is_abstract_v<iowq::work>);
}  // namespace

TEST_SUITE("pool/work") {
  TEST_CASE("flags may be given when made, or until enqueued") {
    nothing item{{.unbound = true, .key = 7, .node = 1}};
    CHECK(item.flags().unbound);
    CHECK(item.flags().key == std::optional<std::uint64_t>{7});
    CHECK(item.flags().node == 1);
    item.flags({.concurrent = true});
    CHECK_FALSE(item.flags().unbound);
    CHECK(item.flags().key == std::nullopt);
    CHECK(item.flags().node == iowq::any_node);
    CHECK(item.flags().concurrent);
  }

  TEST_CASE("key 0 is a key, and a node that cannot be is any") {
    CHECK(nothing{{.key = 0}}.flags().key == std::optional<std::uint64_t>{0});
    CHECK(nothing{{.node = -5}}.flags().node == iowq::any_node);
    CHECK(nothing{{.node = 1 << 20}}.flags().node == iowq::any_node);
  }

  TEST_CASE("a copy is a new item with the same flags") {
    nothing const first{{.unbound = true, .key = 3}};
    nothing const second = first;
    CHECK(second.flags().key == first.flags().key);
    CHECK(second.flags().unbound);
    CHECK(second.error() == 0);
  }
}
