// Errors, and the few helpers between this header and the bridge.
#ifndef DEEPSEEK_ERROR_HPP
#define DEEPSEEK_ERROR_HPP

#include "deepseek/bridge.h"
#include "deepseek/rust/cxx.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace deepseek {

/// Stable status codes, in bands of one hundred.
enum class Code : std::int32_t {
    /// An argument is malformed: misaligned, out of range, not UTF-8.
    InvalidArgument = 100,
    /// A shape does not match what the model or operator requires.
    ShapeMismatch = 101,
    /// An element type does not match what the model or operator requires.
    DTypeMismatch = 102,
    /// No input, output, node or tensor has the given name.
    NotFound = 103,
    /// The object cannot do this in its present state (closed, moved from).
    InvalidState = 104,
    /// The caller's buffer is too small.
    BufferTooSmall = 105,
    /// A file or its contents could not be read or written.
    Io = 200,
    /// A file is not what it claims to be: truncated, corrupt or contradictory.
    InvalidFile = 201,
    /// A graph breaks a rule of the representation.
    InvalidGraph = 202,
    /// The operator, attribute, type or format is valid but not implemented.
    Unsupported = 300,
    /// Options carry fields that this version does not know.
    UnsupportedOption = 301,
    /// Memory could not be allocated.
    OutOfMemory = 400,
    /// The run would exceed the byte budget.
    BudgetExceeded = 401,
    /// A device could not be used.
    Device = 500,
    /// The call was cancelled.
    Cancelled = 600,
    /// The call's deadline passed.
    Timeout = 601,
    /// An invariant of the library is broken; please report it.
    Internal = 900,
    /// The library panicked inside a call; the process lives on.
    Panic = 901,
    /// An earlier panic left this object unusable.
    Poisoned = 902,
};

namespace detail {

inline std::string to_string(rust::Str text) { return {text.data(), text.size()}; }
inline std::string to_string(const rust::String &text) { return {text.data(), text.size()}; }

} // namespace detail

/// The code's stable upper-case name, e.g. `SHAPE_MISMATCH`.
inline std::string name(Code code) {
    return detail::to_string(bridge::code_name(static_cast<std::int32_t>(code)));
}

/// What went wrong, where, and what to do about it.
class Error : public std::runtime_error {
public:
    Error(Code code, const std::string &message, const std::string &node = {})
        : std::runtime_error(deepseek::name(code) + ": " +
                             (node.empty() ? "" : "node '" + node + "': ") + message),
          details_(std::make_shared<const Details>(Details{code, message, node})) {}

    /// The stable code.
    Code code() const noexcept { return details_->code; }
    /// The code's name, e.g. `SHAPE_MISMATCH`.
    std::string name() const { return deepseek::name(code()); }
    /// The message without code and node; `what()` has all three.
    const std::string &message() const noexcept { return details_->message; }
    /// Path of the node the error arose in, outermost first; empty if there is none.
    const std::string &node() const noexcept { return details_->node; }

private:
    struct Details {
        Code code;
        std::string message;
        std::string node;
    };
    // Shared, so that copying an exception cannot throw.
    std::shared_ptr<const Details> details_;
};

namespace detail {

inline Error error(const bridge::Status &status) {
    return Error(static_cast<Code>(status.code), to_string(status.message), to_string(status.node));
}

/// What `work(status)` returns; throws if it failed.
template <class Work> auto call(Work &&work) {
    bridge::Status status{};
    if constexpr (std::is_void_v<decltype(work(status))>) {
        work(status);
        if (status.code != 0) {
            throw error(status);
        }
    } else {
        auto result = work(status);
        if (status.code != 0) {
            throw error(status);
        }
        return result;
    }
}

/// Takes over an object of the library.
template <class T> std::shared_ptr<T> own_mut(T *raw) {
    return std::shared_ptr<T>(raw, [](T *p) { rust::Box<T>::from_raw(p); });
}
template <class T> std::shared_ptr<const T> own(T *raw) { return own_mut(raw); }

template <class T> T &get(const std::shared_ptr<T> &handle, const char *what) {
    if (handle == nullptr) {
        throw Error(Code::InvalidState,
                    std::string("the ") + what + " is empty: it was moved from or never set");
    }
    return *handle;
}

inline rust::Str text(std::string_view text, const char *what) {
    try {
        return {text.data() == nullptr ? "" : text.data(), text.size()};
    } catch (const std::invalid_argument &) {
        throw Error(Code::InvalidArgument, std::string(what) + " is not UTF-8");
    }
}

inline std::vector<rust::Str> texts(const std::vector<std::string> &from, const char *what) {
    std::vector<rust::Str> to;
    to.reserve(from.size());
    for (const std::string &each : from) {
        to.push_back(text(each, what));
    }
    return to;
}

template <class T> rust::Slice<const T> slice(const std::vector<T> &from) {
    return {from.data(), from.size()};
}

inline rust::Slice<const std::uint8_t> bytes(const void *data, std::size_t size) {
    if (data == nullptr && size != 0) {
        throw Error(Code::InvalidArgument, "data is null");
    }
    return {static_cast<const std::uint8_t *>(data), size};
}

/// A timeout as the bridge takes it: negative for none.
inline std::int64_t nanoseconds(const std::optional<std::chrono::nanoseconds> &timeout) {
    return timeout ? std::max<std::int64_t>(timeout->count(), 0) : -1;
}

} // namespace detail
} // namespace deepseek

#endif
