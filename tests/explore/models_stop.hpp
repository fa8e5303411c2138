// SPDX-License-Identifier: BSL-1.0
// base/detail/stop_state.hpp: the thread that made a source registers callbacks, ends them and
// requests, and so do others.
#pragma once

#include <optional>

#include <iowq/base/detail/stop_state.hpp>

#include "model.hpp"

namespace explore {

using stop_list = iowq::detail::stop_list<policy>;

/// A callback that counts its calls in plain data: they end before its end, in every order.
class stop_call : iowq::detail::basic_stop_node<policy> {
 public:
  using body = std::function<void(stop_call&)>;

  explicit stop_call(stop_list& source, body does = {})
      : basic_stop_node{&invoke}, does_{std::move(does)} {
    attach(&source);
  }
  ~stop_call() { end(); }
  void end() { detach(); }
  [[nodiscard]] int calls() { return calls_.get(); }

 private:
  static void invoke(basic_stop_node* self) noexcept {
    auto& one = *static_cast<stop_call*>(self);
    one.calls_.set(one.calls_.get() + 1);
    if (one.does_) one.does_(one);
  }
  var<int> calls_;
  body does_;
};

EXPLORE_MODEL(stop, end_at_home, "a callback of home's is called before its end, or never") {
  stop_list source;
  thread other{"other", [&] { check(source.request(), "who alone requests is the first"); }};
  stop_call first{source};
  stop_call second{source};
  second.end();
  check(second.calls() <= 1, "it was called twice");
  first.end();
  check(first.calls() <= 1, "it was called twice");
}

EXPLORE_MODEL(stop, begin_at_home, "a callback that home registers as others request is called") {
  stop_list source;
  std::optional<stop_call> call;
  {
    thread other{"other", [&] { (void)source.request(); }};
    call.emplace(source);
  }
  check(call->calls() == 1, "it was not called once");
}

EXPLORE_MODEL(stop, begin_elsewhere,
              "a callback of another thread's, as home requests, is called") {
  stop_list source;
  std::optional<stop_call> call, own;
  own.emplace(source);
  {
    thread other{"other", [&] { call.emplace(source); }};
    (void)source.request();
  }
  check(call->calls() == 1 && own->calls() == 1, "it was not called once");
}

EXPLORE_MODEL(stop, end_elsewhere, "a callback of another thread's is ended there, as home stops") {
  stop_list source;
  thread other{"other", [&] {
                 stop_call call{source};
                 call.end();
                 check(call.calls() <= 1, "it was called twice");
               }};
  (void)source.request();
}

EXPLORE_MODEL(stop, moved, "a callback of home's is ended elsewhere, as home goes on") {
  stop_list source;
  std::optional<stop_call> moved, stays;
  moved.emplace(source);
  {
    thread other{"other", [&] { moved.reset(); }};
    stays.emplace(source);
    stop_call passes{source};
  }
  check(source.request(), "nobody requested before");
  check(stays->calls() == 1, "it was not called once");
}

EXPLORE_MODEL(stop, moved_as_home_requests,
              "a callback of home's is ended elsewhere, as home stops") {
  stop_list source;
  stop_call stays{source};
  std::optional<stop_call> moved;
  moved.emplace(source);
  thread other{"other", [&] {
                 moved->end();
                 check(moved->calls() <= 1, "it was called twice");
               }};
  (void)source.request();
  check(stays.calls() == 1, "it was not called once");
}

EXPLORE_MODEL(stop, moved_as_others_request,
              "a callback of home's is ended there, as others stop") {
  stop_list source;
  stop_call stays{source};
  std::optional<stop_call> moved;
  moved.emplace(source);
  {
    thread other{"other", [&] { (void)source.request(); }};
    thread third{"third", [&] { moved.reset(); }};
  }
  check(stays.calls() == 1, "it was not called once");
}

EXPLORE_MODEL(stop, claimed_for_good,
              "home gives way to who ends a callback of its, and then requests") {
  stop_list source;
  stop_call stays{source};
  std::optional<stop_call> moved, late;
  moved.emplace(source);
  {
    thread other{"other", [&] {
                   moved.reset();
                   (void)source.request();
                 }};
    late.emplace(source);
  }
  check(late->calls() == 1 && stays.calls() == 1, "it was not called once");
}

EXPLORE_MODEL(stop, two_requests, "of two that request one is the first, and calls") {
  stop_list source;
  stop_call call{source};
  atomic<int> first{0};
  {
    thread other{"other", [&] {
                   if (source.request()) first.fetch_add(1, std::memory_order_relaxed);
                 }};
    if (source.request()) first.fetch_add(1, std::memory_order_relaxed);
  }
  check(first.load(std::memory_order_relaxed) == 1, "one is the first");
  check(call.calls() == 1, "it was not called once");
}

EXPLORE_MODEL(stop, published, "what was written before a request is seen by who sees the stop") {
  stop_list source;
  var<int> text;
  thread other{"other", [&] {
                 text.set(1);
                 (void)source.request();
               }};
  bool seen = false;
  stop_call call{source, [&](stop_call&) { seen = text.get() == 1; }};
  if (source.is_requested()) check(text.get() == 1, "the text is not there");
  call.end();
  check(seen == (call.calls() == 1), "the callback has not seen the text");
}

EXPLORE_MODEL(stop, second_request, "who requests second sees what was written before the first") {
  stop_list source;
  var<int> text;
  {
    thread other{"other", [&] {
                   text.set(1);
                   (void)source.request();
                 }};
    if (!source.request()) check(text.get() == 1, "the text is not there");
  }
}

EXPLORE_MODEL(stop, source_dies, "a callback ends itself and its source, as others stop another") {
  auto* const source = new stop_list;
  std::optional<stop_call> call;
  stop_list outer;
  call.emplace(*source, [&](stop_call&) {
    call.reset();
    delete source;
  });
  {
    thread other{"other", [&] { (void)outer.request(); }};
    stop_call passes_on{outer, [&](stop_call&) { (void)source->request(); }};
    other.join();
  }
  check(!call.has_value(), "it was not called");
}

}  // namespace explore
