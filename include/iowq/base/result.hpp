// SPDX-License-Identifier: BSL-1.0
// iowq/base/result.hpp -- a value or the reason why there is none.
//
// liburing answers -errno, a raw system call sets errno. Inside the library both become one int:
// >= 0 is the answer, < 0 is -errno. This header is the one place where that int becomes an
// std::error_code or an exception.
#pragma once

#include <cerrno>
#include <exception>
#include <memory>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include <iowq/base/assert.hpp>

namespace iowq::inline v0 {

namespace detail {

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

}  // namespace detail

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

namespace detail {

/// What a system call that sets errno answered, in the library's form.
template <class Answer>
[[nodiscard]] Answer or_errno(Answer answer) noexcept {
  return answer < 0 ? static_cast<Answer>(-errno) : answer;
}

}  // namespace detail

/// Holds a `T`, or the std::error_code of the failure. `T` may be void, a reference, or
/// move-only. A result is never empty.
///
/// A union and a flag, not a std::variant: that costs each translation unit the instantiation of
/// some forty templates for each `T`.
template <class T = void>
class [[nodiscard("look at it: it may hold an error")]] result {
  struct nothing {};
  using stored =
      std::conditional_t<std::is_void_v<T>, nothing,
                         std::conditional_t<std::is_reference_v<T>, std::add_pointer_t<T>, T>>;

 public:
  using value_type = T;

  /// A value; default: a value-initialised one.
  result() noexcept(std::is_nothrow_default_constructible_v<stored>)
    requires std::is_default_constructible_v<stored>
      : value_(), has_value_{true} {}

  template <class U = T>
    requires(!std::is_void_v<T> && !std::is_reference_v<T> && std::is_constructible_v<stored, U> &&
             !std::is_same_v<std::remove_cvref_t<U>, result> &&
             !std::is_same_v<std::remove_cvref_t<U>, std::error_code>)
  explicit(!std::is_convertible_v<U, stored>) result(U&& value)
      : value_(std::forward<U>(value)), has_value_{true} {}

  template <class U>
    requires(std::is_reference_v<T> && std::is_convertible_v<U&, T> &&
             std::is_convertible_v<U*, stored>)  // names an object, makes no temporary
  result(U& value) : value_(&static_cast<T>(value)), has_value_{true} {}

  /// An error; a zero code is a programmer's mistake.
  result(std::error_code error) noexcept : error_{error}, has_value_{false} {
    IOWQ_ASSERT(error, "a result was made of an error_code that says success");
  }

  result(const result& other)
    requires std::is_copy_constructible_v<stored>
  {
    construct(other);
  }
  result(result&& other) noexcept(std::is_nothrow_move_constructible_v<stored>) {
    construct(std::move(other));
  }
  result& operator=(const result& other)
    requires std::is_copy_constructible_v<stored>
  {
    return *this = result{other};
  }
  result& operator=(result&& other) noexcept(std::is_nothrow_move_constructible_v<stored>) {
    if (this == &other) return *this;
    destroy();
    has_value_ = false;  // should the move throw: an error without a meaning, but destructible
    error_ = {};
    construct(std::move(other));
    return *this;
  }
  ~result() { destroy(); }

  [[nodiscard]] bool has_value() const noexcept { return has_value_; }
  [[nodiscard]] explicit operator bool() const noexcept { return has_value_; }

  /// The error; a zero code if there is a value.
  [[nodiscard]] std::error_code error() const noexcept {
    return has_value_ ? std::error_code{} : error_;
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
    if (!has_value_) detail::throw_error(error_, "result");
  }

  template <class Other>
  void construct(Other&& other) {
    if (other.has_value_)
      std::construct_at(std::addressof(value_), std::forward<Other>(other).value_);
    else
      error_ = other.error_;
    has_value_ = other.has_value_;
  }
  void destroy() noexcept {
    if constexpr (!std::is_trivially_destructible_v<stored>)
      if (has_value_) value_.~stored();
  }

  template <class Self>
  static decltype(auto) get(Self&& self) {
    IOWQ_ASSERT(self.has_value_, "a result was dereferenced that holds an error");
    if constexpr (std::is_void_v<T>)
      return;
    else if constexpr (std::is_reference_v<T>)
      return static_cast<T>(*self.value_);
    else if constexpr (std::is_lvalue_reference_v<Self>)
      return (self.value_);
    else
      return std::move(self.value_);
  }

  union {
    stored value_;
    std::error_code error_;
  };
  bool has_value_;
};

}  // namespace iowq::inline v0
