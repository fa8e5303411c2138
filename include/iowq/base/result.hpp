// SPDX-License-Identifier: BSL-1.0
// iowq/base/result.hpp -- result<T>: a value or the std::error_code of the failure.
//
// liburing returns -errno; a system call sets errno. Inside the library both become one int: a
// value >= 0 is the result, a value < 0 is -errno. Only this header converts that int to a
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

/// Converts the kernel's result `res`, which is -errno, to an error in std::system_category().
[[nodiscard]] inline std::error_code to_error(int res) noexcept {
  return {-res, std::system_category()};
}

/// Throws std::system_error for the kernel's result `res`, which is -errno. Its what() is
/// "operation: text of errno".
[[noreturn]] IOWQ_COLD inline void throw_error(int res, const char* operation) {
  throw std::system_error(to_error(res), operation);
}
[[noreturn]] IOWQ_COLD inline void throw_error(std::error_code error, const char* operation) {
  throw std::system_error(error, operation);
}

}  // namespace detail

/// Returns true if `error` is a std::system_error with the code std::errc::operation_canceled,
/// which an operation throws if a stop request cancelled it.
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

/// Converts the return value of a system call that sets errno: -errno if `answer` is negative,
/// otherwise `answer`.
template <class Answer>
[[nodiscard]] Answer or_errno(Answer answer) noexcept {
  return answer < 0 ? static_cast<Answer>(-errno) : answer;
}

}  // namespace detail

/// Holds a `T`, or the std::error_code of the failure. `T` may be void, a reference, or
/// move-only. A result is never empty.
///
/// A union and a flag, not a std::variant: a variant costs each translation unit the instantiation
/// of about forty templates for each `T`.
template <class T = void>
class [[nodiscard("look at it: it may hold an error")]] result {
  struct nothing {};
  using stored =
      std::conditional_t<std::is_void_v<T>, nothing,
                         std::conditional_t<std::is_reference_v<T>, std::add_pointer_t<T>, T>>;

 public:
  using value_type = T;

  /// Holds a value-initialised value.
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
             std::is_convertible_v<U*, stored>)  // binds to an object, creates no temporary
  result(U& value) : value_(&static_cast<T>(value)), has_value_{true} {}

  /// Holds an error. Asserts that `error` is not the code 0, which means success.
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
    has_value_ = false;  // if the move throws: destructible, with a zero error code
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

  /// The value. Check has_value() first: if the result holds an error, the program stops.
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

  /// Returns the value, or throws the error as std::system_error.
  decltype(auto) value() & { return check(), get(*this); }
  decltype(auto) value() const& { return check(), get(*this); }
  T value() && { return check(), T(get(std::move(*this))); }

  /// Returns the value, or `other` if the result holds an error.
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
    bool const has_value = other.has_value_;
    if (has_value)
      std::construct_at(std::addressof(value_), std::forward<Other>(other).value_);
    else
      error_ = other.error_;
    has_value_ = has_value;
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
