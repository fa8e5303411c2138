// SPDX-License-Identifier: BSL-1.0
// Parses HTTP/1.1 requests with a parser library.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <string>
#include <string_view>

#include "http_parser.hpp"

namespace example {

/// The parts of a request that the server uses.
struct http_request {
  std::string method, target, range, if_range;
  bool keep_alive = false;
};

/// Takes bytes as they arrive and returns one request after the other. Pipelined requests stay
/// unread until the request before them was taken.
class request_parser {
 public:
  static constexpr std::size_t longest_target = 4096;
  static constexpr std::size_t longest_head = 16384;  // request line and headers together

  enum class state { incomplete, complete, malformed, target_too_long, head_too_long };

  request_parser() {
    set(settings_.on_url, [](request_parser& me, std::string_view text) {
      me.request_.target.append(text);
      return me.limit(me.request_.target.size() > longest_target, state::target_too_long);
    });
    set(settings_.on_header_field, [](request_parser& me, std::string_view text) {
      if (!me.value_.empty() || me.in_value_) me.header_ends();
      me.field_.append(text);
      return me.counts(text.size());
    });
    set(settings_.on_header_value, [](request_parser& me, std::string_view text) {
      me.in_value_ = true;
      me.value_.append(text);
      return me.counts(text.size());
    });
    settings_.on_message_complete = [](http_parser* p) {
      auto& me = *static_cast<request_parser*>(p->data);
      me.header_ends();
#if defined(EXAMPLE_LLHTTP)
      me.request_.method = llhttp_method_name(static_cast<llhttp_method_t>(p->method));
      me.request_.keep_alive = llhttp_should_keep_alive(p) != 0;
      me.state_ = state::complete;
      return static_cast<int>(HPE_PAUSED);
#else
      me.request_.method = http_method_str(static_cast<http_method>(p->method));
      me.request_.keep_alive = http_should_keep_alive(p) != 0;
      me.state_ = state::complete;
      http_parser_pause(p, 1);
      return 0;
#endif
    };
    next();
  }

  /// Parses `bytes` and sets `used` to the number of bytes consumed. If the state is `complete`,
  /// take the request and then call next().
  state feed(std::string_view bytes, std::size_t& used) {
#if defined(EXAMPLE_LLHTTP)
    auto const error = llhttp_execute(&parser_, bytes.data(), bytes.size());
    used = error == HPE_OK
               ? bytes.size()
               : static_cast<std::size_t>(llhttp_get_error_pos(&parser_) - bytes.data());
    bool const broken = error != HPE_OK && error != HPE_PAUSED;
    if (broken && state_ == state::incomplete) state_ = state::malformed;
#else
    used = http_parser_execute(&parser_, &settings_, bytes.data(), bytes.size());
    auto const error = HTTP_PARSER_ERRNO(&parser_);
    bool const broken = (error != HPE_OK && error != HPE_PAUSED) || parser_.upgrade != 0;
    if (broken && state_ == state::incomplete) state_ = state::malformed;
#endif
    return state_;
  }

  [[nodiscard]] const http_request& request() const { return request_; }

  /// Prepares the parser for the next request.
  void next() {
    start(parser_, HTTP_REQUEST, settings_, this);
    request_ = {};
    field_.clear();
    value_.clear();
    in_value_ = false;
    head_ = 0;
    state_ = state::incomplete;
  }

 private:
  using taker = int (*)(request_parser&, std::string_view);

  template <class Slot, class Take>
  static void set(Slot& slot, Take) {
    slot = [](http_parser* p, const char* text, std::size_t size) {
      return Take{}(*static_cast<request_parser*>(p->data), {text, size});
    };
  }
  int limit(bool exceeded, state what) {
    if (exceeded) state_ = what;
    return exceeded ? -1 : 0;
  }
  int counts(std::size_t bytes) {
    head_ += bytes;
    return limit(head_ > longest_head, state::head_too_long);
  }
  void header_ends() {
    std::transform(field_.begin(), field_.end(), field_.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (field_ == "range") request_.range = value_;
    if (field_ == "if-range") request_.if_range = value_;
    field_.clear();
    value_.clear();
    in_value_ = false;
  }

  http_parser parser_{};
  http_settings settings_{};
  http_request request_;
  std::string field_, value_;
  bool in_value_ = false;
  std::size_t head_ = 0;
  state state_ = state::incomplete;
};

}  // namespace example
