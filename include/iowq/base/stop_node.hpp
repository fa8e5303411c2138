// SPDX-License-Identifier: BSL-1.0
// iowq/base/stop_node.hpp -- one callback of a stop source.
// Layer base; needs policy. Next in the book: base/stop_list.hpp.
#pragma once

#include <utility>

#include <iowq/base/policy.hpp>

namespace iowq::detail {

template <class Policy>
class stop_list;

/// One registered callback, linked into its list. `done_` is set by the thread that ran it and
/// awaited by the one that destroys it.
template <class Policy>
class basic_stop_node {
 public:
  basic_stop_node(const basic_stop_node&) = delete;
  basic_stop_node& operator=(const basic_stop_node&) = delete;

 protected:
  using invoke_fn = void(basic_stop_node*) noexcept;
  explicit basic_stop_node(invoke_fn* invoke) noexcept : invoke_{invoke} {}
  ~basic_stop_node() = default;

  void attach(stop_list<Policy>* list) noexcept {
    if (list == nullptr) return;
    if (list->attach(*this))
      list_ = list;
    else
      invoke_(this);  // too late to wait for it: run here and now, as the standard's does
  }
  void detach() noexcept {
    if (auto* const list = std::exchange(list_, nullptr)) list->detach(*this);
  }

 private:
  friend stop_list<Policy>;
  using link = typename Policy::template guarded<basic_stop_node*>;

  invoke_fn* invoke_;
  stop_list<Policy>* list_ = nullptr;  // null: never linked, so nothing to undo
  // No more stores than needed: these are written before they are read.
  link next_;
  typename Policy::template guarded<link*> link_;  // at us; null once taken out to run
  bool* destroyed_;                                // while running: for its destructor to set
  typename Policy::template atomic<bool> done_{false};
  bool elsewhere_ = false;  // it is in the other list
};

}  // namespace iowq::detail
