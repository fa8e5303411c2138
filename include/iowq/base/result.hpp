// SPDX-License-Identifier: BSL-1.0
// iowq/base/result.hpp -- a value or the reason why there is none.
// Layer base; needs assert. Next in the book: base/stop_node.hpp.
//
// liburing answers -errno, a raw system call sets errno. Inside the library both become one int:
// >= 0 is the answer, < 0 is -errno. This header is the one place where that int becomes an
// std::error_code or an exception.
#pragma once

#include <cerrno>
#include <exception>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include <iowq/base/assert.hpp>

namespace iowq {

/// The error of a kernel's answer `res` < 0, in std::system_category().
[[nodiscard]] inline std::error_code to_error(int res) noexcept {
  return {-res, std::system_category()};
}

/// Throws what a kernel's answer `res` < 0 means: "operation: text of errno".
[[noreturn]] IOWQ_COLD inline void throw_error(int res, const char* operation) {
  throw std::system_error(to_error(res), operation);
}
[[noreturn]] IOWQ_COLD inline void throw_error(std::error_code error, const char* operation) {
  throw std::system_error(error, operation);
}

/// Is `error` that of an operation which ended because it was asked to stop?
[[nodiscard]] IOWQ_COLD inline bool is_cancellation(const std::exception_ptr& error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const std::system_error& e) {
    return e.code() == std::errc::operation_canceled;
  } catch (...) {
    return false;
  }
}

/// What a system call that sets errno answered, in the library's form.
template <class Answer>
[[nodiscard]] Answer or_errno(Answer answer) noexcept {
  return answer < 0 ? static_cast<Answer>(-errno) : answer;
}

/// `T`, or the std::error_code that says why not. `T` may be void, a reference, or move-only.
/// Small enough to return; never empty.
template <class T = void>
class [[nodiscard("look at it: it may hold an error")]] result {
  using stored =
      std::conditional_t<std::is_void_v<T>, std::monostate,
                         std::conditional_t<std::is_reference_v<T>, std::add_pointer_t<T>, T>>;

 public:
  using value_type = T;

  /// A value; default: a value-initialised one.
  result()
    requires std::is_default_constructible_v<stored>
      : state_{std::in_place_index<0>} {}

  template <class U = T>
    requires(!std::is_void_v<T> && !std::is_reference_v<T> && std::is_constructible_v<stored, U> &&
             !std::is_same_v<std::remove_cvref_t<U>, result> &&
             !std::is_same_v<std::remove_cvref_t<U>, std::error_code>)
  explicit(!std::is_convertible_v<U, stored>)
      result(U&& value)  // NOLINT(google-explicit-constructor)
      : state_{std::in_place_index<0>, std::forward<U>(value)} {}

  template <class U>
    requires(std::is_reference_v<T> && std::is_convertible_v<U&, T> &&
             std::is_convertible_v<U*, stored>)  // names an object, makes no temporary
  result(U& value)
      : state_{std::in_place_index<0>, &static_cast<T>(value)} {
  }  // NOLINT(google-explicit-constructor)

  /// An error; a zero code is a programmer's mistake.
  result(std::error_code error)
      : state_{std::in_place_index<1>, error} {  // NOLINT(google-explicit-constructor)
    IOWQ_ASSERT(error, "a result was made of an error_code that says success");
  }

  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  [[nodiscard]] explicit operator bool() const noexcept { return has_value(); }

  /// The error; a zero code if there is a value.
  [[nodiscard]] std::error_code error() const noexcept {
    return has_value() ? std::error_code{} : *std::get_if<1>(&state_);
  }

  /// The value. Asks for has_value() first: an error here stops the program.
  decltype(auto) operator*() & { return get(*this); }
  decltype(auto) operator*() const& { return get(*this); }
  T operator*() && { return T(get(std::move(*this))); }
  auto operator->()
    requires(!std::is_void_v<T>)
  {
    return &get(*this);
  }
  auto operator->() const
    requires(!std::is_void_v<T>)
  {
    return &get(*this);
  }

  /// The value, or throws std::system_error.
  decltype(auto) value() & { return check(), get(*this); }
  decltype(auto) value() const& { return check(), get(*this); }
  T value() && { return check(), T(get(std::move(*this))); }

  /// The value, or `other`.
  template <class U>
    requires(!std::is_void_v<T>)
  [[nodiscard]] T value_or(U&& other) && {
    return has_value() ? T(get(std::move(*this))) : static_cast<T>(std::forward<U>(other));
  }

 private:
  void check() const {
    if (!has_value()) throw_error(error(), "result");
  }

  template <class Self>
  static decltype(auto) get(Self&& self) {
    auto* slot = std::get_if<0>(&self.state_);
    IOWQ_ASSERT(slot != nullptr, "a result was dereferenced that holds an error");
    if constexpr (std::is_void_v<T>)
      return;
    else if constexpr (std::is_reference_v<T>)
      return static_cast<T>(**slot);
    else if constexpr (std::is_lvalue_reference_v<Self>)
      return (*slot);
    else
      return std::move(*slot);
  }

  std::variant<stored, std::error_code> state_;
};

}  // namespace iowq
