// SPDX-License-Identifier: BSL-1.0
// Parses HTTP/1.1 responses with a parser library.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "http_parser.hpp"

namespace example {

/// Takes the bytes of one response as they arrive.
class response_parser {
 public:
  enum class state { incomplete, complete, malformed };

  response_parser() {
    settings_.on_body = [](http_parser* p, const char*, std::size_t size) {
      static_cast<response_parser*>(p->data)->body_ += size;
      return 0;
    };
    settings_.on_message_complete = [](http_parser* p) {
      static_cast<response_parser*>(p->data)->state_ = state::complete;
      return 0;
    };
    start(parser_, HTTP_RESPONSE, settings_, this);
  }
  response_parser(const response_parser&) = delete;
  response_parser& operator=(const response_parser&) = delete;

  /// Parses `bytes`. An empty `bytes` means the end of the connection, which may be the end of the
  /// response.
  state feed(std::string_view bytes) {
    if (state_ != state::incomplete) return state_;
#if defined(EXAMPLE_LLHTTP)
    bool const broken =
        (bytes.empty() ? llhttp_finish(&parser_)
                       : llhttp_execute(&parser_, bytes.data(), bytes.size())) != HPE_OK;
#else
    bool const broken =
        http_parser_execute(&parser_, &settings_, bytes.data(), bytes.size()) != bytes.size() ||
        HTTP_PARSER_ERRNO(&parser_) != HPE_OK;
#endif
    if (state_ == state::incomplete && (broken || bytes.empty())) state_ = state::malformed;
    return state_;
  }

  [[nodiscard]] int status() const noexcept { return static_cast<int>(parser_.status_code); }
  [[nodiscard]] std::size_t body() const noexcept { return body_; }

 private:
  http_parser parser_{};
  http_settings settings_{};
  std::size_t body_ = 0;
  state state_ = state::incomplete;
};

}  // namespace example
