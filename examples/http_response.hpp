// SPDX-License-Identifier: BSL-1.0
// HTTP/1.1 responses, parsed by the library that http_request.hpp uses.
#pragma once

#if defined(EXAMPLE_LLHTTP)
#include <llhttp.h>
#else
#include <http_parser.h>
#endif

#include <cstddef>
#include <string>
#include <string_view>

namespace example {

/// Takes the bytes of one response as they come.
class response_parser {
#if defined(EXAMPLE_LLHTTP)
  using parser = llhttp_t;
  using settings = llhttp_settings_t;
#else
  using parser = ::http_parser;
  using settings = ::http_parser_settings;
#endif

 public:
  enum class state { incomplete, complete, malformed };

  response_parser() {
    settings_.on_body = [](parser* p, const char*, std::size_t size) {
      static_cast<response_parser*>(p->data)->body_ += size;
      return 0;
    };
    settings_.on_message_complete = [](parser* p) {
      static_cast<response_parser*>(p->data)->state_ = state::complete;
      return 0;
    };
#if defined(EXAMPLE_LLHTTP)
    llhttp_init(&parser_, HTTP_RESPONSE, &settings_);
#else
    http_parser_init(&parser_, HTTP_RESPONSE);
#endif
    parser_.data = this;
  }
  response_parser(const response_parser&) = delete;
  response_parser& operator=(const response_parser&) = delete;

  /// None are the end of the connection, which may be the end of the response.
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
  parser parser_{};
  settings settings_{};
  std::size_t body_ = 0;
  state state_ = state::incomplete;
};

}  // namespace example
