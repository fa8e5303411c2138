// SPDX-License-Identifier: BSL-1.0
// Selects the library that parses HTTP/1.1: llhttp if it is installed (Debian 13), else its
// predecessor http-parser (Debian 12). The two differ in names and in how they stop.
#pragma once

#if defined(EXAMPLE_LLHTTP)
#include <llhttp.h>
#else
#include <http_parser.h>
#endif

namespace example {

#if defined(EXAMPLE_LLHTTP)
using http_parser = llhttp_t;
using http_settings = llhttp_settings_t;
using http_kind = llhttp_type_t;
#else
using http_parser = ::http_parser;
using http_settings = ::http_parser_settings;
using http_kind = ::http_parser_type;
#endif

/// Prepares `parser` for the next message. Its callbacks find `owner` in its `data`.
inline void start(http_parser& parser, http_kind kind, const http_settings& settings, void* owner) {
#if defined(EXAMPLE_LLHTTP)
  llhttp_init(&parser, kind, &settings);
#else
  static_cast<void>(settings);  // passed with the bytes instead
  http_parser_init(&parser, kind);
#endif
  parser.data = owner;
}

}  // namespace example
