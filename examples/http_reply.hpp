// SPDX-License-Identifier: BSL-1.0
// The parts of a file server's replies: status lines, content types, ranges, and the encoding of
// names in URLs and in HTML.
#pragma once

#include <array>
#include <charconv>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace example {

inline std::string_view reason_of(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 206:
      return "Partial Content";
    case 301:
      return "Moved Permanently";
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 414:
      return "URI Too Long";
    case 416:
      return "Range Not Satisfiable";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    default:
      return "Internal Server Error";
  }
}

/// The content type for the extension of `path`. A file without an extension is served as text,
/// which it usually is.
inline std::string_view content_type_of(std::string_view path) {
  static constexpr std::pair<std::string_view, std::string_view> known[] = {
      {"html", "text/html; charset=utf-8"},
      {"htm", "text/html; charset=utf-8"},
      {"css", "text/css; charset=utf-8"},
      {"js", "text/javascript; charset=utf-8"},
      {"txt", "text/plain; charset=utf-8"},
      {"md", "text/markdown; charset=utf-8"},
      {"csv", "text/csv; charset=utf-8"},
      {"xml", "application/xml"},
      {"json", "application/json"},
      {"pdf", "application/pdf"},
      {"svg", "image/svg+xml"},
      {"png", "image/png"},
      {"jpg", "image/jpeg"},
      {"jpeg", "image/jpeg"},
      {"gif", "image/gif"},
      {"webp", "image/webp"},
      {"ico", "image/x-icon"},
      {"wasm", "application/wasm"},
      {"gz", "application/gzip"},
      {"xz", "application/x-xz"},
      {"zst", "application/zstd"},
      {"zip", "application/zip"},
      {"tar", "application/x-tar"},
      {"mp4", "video/mp4"},
      {"mp3", "audio/mpeg"},
      {"woff2", "font/woff2"},
  };
  path.remove_prefix(path.rfind('/') + 1);
  auto const dot = path.rfind('.');
  if (dot == path.npos) return "text/plain; charset=utf-8";
  for (const auto& [ending, type] : known)
    if (path.substr(dot + 1) == ending) return type;
  return "application/octet-stream";
}

/// Formats `when` as an IMF-fixdate, as HTTP requires.
inline std::string http_date(std::time_t when) {
  std::tm utc{};
  ::gmtime_r(&when, &utc);
  std::array<char, 64> text;
  auto const size = std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return {text.data(), size};
}

/// Returns the decoded path of a request target, without the leading slash, or std::nullopt if
/// `target` is not a path.
inline std::optional<std::string> path_of(std::string_view target) {
  if (target.substr(0, 7) == "http://") {
    auto const slash = target.find('/', 7);
    target = slash == target.npos ? "/" : target.substr(slash);
  }
  target = target.substr(0, target.find_first_of("?#"));
  if (target.empty() || target.front() != '/') return {};
  std::string path;
  for (std::size_t i = 1; i < target.size(); ++i) {
    if (target[i] != '%') {
      path += target[i];
      continue;
    }
    unsigned byte = 0;
    if (i + 2 >= target.size()) return {};
    const char* const digits = target.data() + i + 1;
    auto const [end, error] = std::from_chars(digits, digits + 2, byte, 16);
    if (error != std::errc{} || end != digits + 2 || byte == 0) return {};
    path += static_cast<char>(byte);
    i += 2;
  }
  return path;
}

inline std::string url_encoded(std::string_view path) {
  static constexpr char hex[] = "0123456789ABCDEF";
  std::string url;
  for (char const c : path) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
        std::string_view{"-._~/"}.find(c) != std::string_view::npos) {
      url += c;
    } else {
      auto const byte = static_cast<unsigned char>(c);
      url += {'%', hex[byte >> 4], hex[byte & 15]};
    }
  }
  return url;
}

inline std::string html_escaped(std::string_view text) {
  std::string html;
  for (char const c : text) switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      default:
        html += c;
    }
  return html;
}

/// Bytes of a file: [first, first + size).
struct byte_range {
  std::uint64_t first, size;
};
struct range_answer {
  enum { whole, part, unsatisfiable } kind;
  byte_range bytes;
};

/// Parses a header with one "bytes=" range for a file of `size` bytes. Several ranges, and a header
/// that cannot be parsed, select the whole file, as RFC 9110 allows.
inline range_answer range_of(std::string_view header, std::uint64_t size) {
  range_answer const whole{range_answer::whole, {0, size}};
  if (header.substr(0, 6) != "bytes=") return whole;
  header.remove_prefix(6);
  auto const dash = header.find('-');
  if (dash == header.npos || header.find(',') != header.npos) return whole;
  auto number = [](std::string_view text, std::uint64_t& n) {
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    return error == std::errc{} && end == text.data() + text.size();
  };
  std::string_view const from = header.substr(0, dash), to = header.substr(dash + 1);
  std::uint64_t first = 0, last = 0;
  if (from.empty()) {  // "-N": the last N bytes
    if (!number(to, last)) return whole;
    if (last == 0 || size == 0) return {range_answer::unsatisfiable, {}};
    std::uint64_t const n = last < size ? last : size;
    return {range_answer::part, {size - n, n}};
  }
  if (!number(from, first) || (!to.empty() && !number(to, last))) return whole;
  if (!to.empty() && last < first) return whole;
  if (first >= size) return {range_answer::unsatisfiable, {}};
  if (to.empty() || last >= size) last = size - 1;
  return {range_answer::part, {first, last - first + 1}};
}

}  // namespace example
