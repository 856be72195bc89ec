// Element types, tensors, and values that hold them.
#ifndef DEEPSEEK_TENSOR_HPP
#define DEEPSEEK_TENSOR_HPP

#include "deepseek/error.hpp"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__has_include)
#if __has_include(<version>)
#include <version>
#endif
#endif
#ifdef __cpp_lib_span
#include <span>
#endif

namespace deepseek {

#ifdef __cpp_lib_span
/// Elements in a row that somebody else owns.
template <class T> using Span = std::span<T>;
#else
/// Elements in a row that somebody else owns.
template <class T> class Span {
public:
    constexpr Span() = default;
    constexpr Span(T *data, std::size_t size) : data_(data), size_(size) {}
    template <class Row, class = decltype(static_cast<T *>(std::declval<Row &>().data()))>
    constexpr Span(Row &&row) : data_(row.data()), size_(row.size()) {}
    constexpr T *data() const { return data_; }
    constexpr std::size_t size() const { return size_; }
    constexpr bool empty() const { return size_ == 0; }
    constexpr T *begin() const { return data_; }
    constexpr T *end() const { return data_ + size_; }
    constexpr T &operator[](std::size_t i) const { return data_[i]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/// Extents, outermost first; empty for a scalar.
using Shape = std::vector<std::size_t>;

/// Element type of a tensor. Types narrower than a byte are stored packed, the first element
/// in the low bits.
enum class DType : std::int32_t {
    F32 = 1,
    F64 = 2,
    F16 = 3,
    BF16 = 4,
    I8 = 5,
    I16 = 6,
    I32 = 7,
    I64 = 8,
    U8 = 9,
    U16 = 10,
    U32 = 11,
    U64 = 12,
    Bool = 13,
    String = 14,
    I4 = 15,
    U4 = 16,
    I2 = 17,
    U2 = 18,
    F8E4M3FN = 19,
    F8E4M3FNUZ = 20,
    F8E5M2 = 21,
    F8E5M2FNUZ = 22,
    F8E8M0 = 23,
    F4E2M1 = 24,
};

/// Short name, e.g. `f32`.
inline std::string name(DType dtype) {
    return detail::to_string(bridge::dtype_name(static_cast<std::int32_t>(dtype)));
}

/// Bits of a stored element; 0 for strings.
inline std::size_t bits(DType dtype) {
    return bridge::dtype_bits(static_cast<std::int32_t>(dtype));
}

/// The type with a short name (`f32`) or numpy's spelling (`float32`). Throws INVALID_ARGUMENT.
inline DType parse_dtype(std::string_view text) {
    return static_cast<DType>(detail::call([&](bridge::Status &s) {
        return bridge::dtype_parse(detail::text(text, "the element type"), s);
    }));
}

/// Every element type.
inline std::vector<DType> dtypes() {
    std::vector<DType> out;
    for (std::int32_t number : bridge::dtype_numbers()) {
        out.push_back(static_cast<DType>(number));
    }
    return out;
}

/// Every status code.
inline std::vector<Code> codes() {
    std::vector<Code> out;
    for (std::int32_t number : bridge::code_numbers()) {
        out.push_back(static_cast<Code>(number));
    }
    return out;
}

/// Bits of an IEEE 754 binary16, an element of `DType::F16`.
struct Float16 {
    std::uint16_t bits;
};

/// Bits of a bfloat16, the upper half of a binary32, an element of `DType::BF16`.
struct BFloat16 {
    std::uint16_t bits;
};

namespace detail {

template <class T> inline constexpr bool is_character =
    std::is_same_v<T, char> || std::is_same_v<T, wchar_t> || std::is_same_v<T, char16_t> ||
    std::is_same_v<T, char32_t>;

} // namespace detail

/// The element type that `T` stands for. Does not compile for other types.
template <class T> constexpr DType dtype_of() {
    if constexpr (std::is_same_v<T, float>) {
        return DType::F32;
    } else if constexpr (std::is_same_v<T, double>) {
        return DType::F64;
    } else if constexpr (std::is_same_v<T, Float16>) {
        return DType::F16;
    } else if constexpr (std::is_same_v<T, BFloat16>) {
        return DType::BF16;
    } else if constexpr (std::is_same_v<T, bool>) {
        return DType::Bool;
    } else {
        static_assert(std::is_integral_v<T> && !detail::is_character<T>,
                      "T is not an element type: use float, double, an integer type, bool, "
                      "deepseek::Float16 or deepseek::BFloat16");
        constexpr bool is_signed = std::is_signed_v<T>;
        switch (sizeof(T)) {
        case 1:
            return is_signed ? DType::I8 : DType::U8;
        case 2:
            return is_signed ? DType::I16 : DType::U16;
        case 4:
            return is_signed ? DType::I32 : DType::U32;
        default:
            return is_signed ? DType::I64 : DType::U64;
        }
    }
}

/// A tensor: element type, shape, and elements in row-major order without gaps. Immutable;
/// copies share the elements.
class Tensor {
public:
    /// Copies `values`. Throws SHAPE_MISMATCH if there are not as many as the shape takes.
    template <class T> static Tensor of(const Shape &shape, Span<const T> values) {
        return from_bytes(dtype_of<T>(), shape, values.data(), values.size() * sizeof(T));
    }
    template <class T> static Tensor of(const Shape &shape, const std::vector<T> &values) {
        static_assert(!std::is_same_v<T, bool>, "std::vector<bool> does not hold its elements in "
                                                "a row; use an array of bool or bytes");
        return from_bytes(dtype_of<T>(), shape, values.data(), values.size() * sizeof(T));
    }
    template <class T> static Tensor of(const Shape &shape, std::initializer_list<T> values) {
        return from_bytes(dtype_of<T>(), shape, values.begin(), values.size() * sizeof(T));
    }

    /// A tensor of rank 0.
    template <class T> static Tensor scalar(T value) { return of<T>({}, {value}); }

    /// Takes over a vector; the elements are not copied. Throws SHAPE_MISMATCH, and the vector
    /// is gone then.
    template <class T> static Tensor adopt(const Shape &shape, std::vector<T> &&values) {
        static_assert(!std::is_same_v<T, bool>,
                      "std::vector<bool> does not hold its elements in a row");
        auto owner = std::make_shared<const std::vector<T>>(std::move(values));
        const T *data = owner->data();
        const std::size_t size = owner->size() * sizeof(T);
        return wrap(dtype_of<T>(), shape, data, size, std::move(owner));
    }

    /// A tensor over `size` bytes at `data`, not copied where they are aligned for the element
    /// type (and, for `bool`, all 0 or 1). They must stay as they are until `owner`, which is
    /// kept as long as they are needed, is let go, on any thread.
    static Tensor wrap(DType dtype, const Shape &shape, const void *data, std::size_t size,
                       std::shared_ptr<const void> owner) {
        struct Owner final : bridge::Keep {
            std::shared_ptr<const void> owner;
        };
        auto keep = std::make_unique<Owner>();
        keep->owner = std::move(owner);
        return Tensor(detail::own(detail::call([&](bridge::Status &s) {
            return bridge::tensor_adopt(static_cast<std::int32_t>(dtype), detail::slice(shape),
                                        static_cast<const std::uint8_t *>(data), size,
                                        std::move(keep), s);
        })));
    }

    /// Copies `size` bytes. Throws SHAPE_MISMATCH if that is not what type and shape take.
    static Tensor from_bytes(DType dtype, const Shape &shape, const void *data, std::size_t size) {
        return Tensor(detail::own(detail::call([&](bridge::Status &s) {
            return bridge::tensor_copy(static_cast<std::int32_t>(dtype), detail::slice(shape),
                                       detail::bytes(data, size), s);
        })));
    }

    /// Zeros, `false` or empty strings.
    static Tensor zeros(DType dtype, const Shape &shape) {
        return Tensor(detail::own(detail::call([&](bridge::Status &s) {
            return bridge::tensor_zeros(static_cast<std::int32_t>(dtype), detail::slice(shape), s);
        })));
    }

    /// Strings.
    static Tensor strings(const Shape &shape, const std::vector<std::string> &values) {
        const auto views = detail::texts(values, "string");
        return Tensor(detail::own(detail::call([&](bridge::Status &s) {
            return bridge::tensor_strings(detail::slice(shape), detail::slice(views), s);
        })));
    }

    DType dtype() const { return static_cast<DType>(raw().dtype()); }
    /// Number of elements.
    std::size_t size() const { return raw().len(); }
    /// Number of bytes; 0 for strings.
    std::size_t size_bytes() const { return raw().bytes(); }
    std::size_t rank() const { return raw().shape().size(); }
    Shape shape() const {
        const auto shape = raw().shape();
        return {shape.begin(), shape.end()};
    }

    /// The elements in place, valid as long as this tensor or a copy of it. Throws
    /// DTYPE_MISMATCH.
    template <class T> Span<const T> data() const & {
        if (dtype_of<T>() != dtype()) {
            throw Error(Code::DTypeMismatch, "expected " + deepseek::name(dtype_of<T>()) +
                                                 " elements, the tensor holds " +
                                                 deepseek::name(dtype()));
        }
        return {reinterpret_cast<const T *>(raw().data()), size()};
    }
    template <class T> Span<const T> data() const && = delete; // would dangle: name the tensor

    /// The bytes in place, of any element type but strings.
    Span<const std::uint8_t> bytes() const & { return {raw().data(), size_bytes()}; }
    Span<const std::uint8_t> bytes() const && = delete;

    /// A copy of the elements. Throws DTYPE_MISMATCH.
    template <class T> std::vector<T> to_vector() const {
        const Span<const T> elements = data<T>();
        return {elements.begin(), elements.end()};
    }

    /// The only element. Throws DTYPE_MISMATCH, SHAPE_MISMATCH if there is not exactly one.
    template <class T> T item() const {
        const Span<const T> elements = data<T>();
        if (elements.size() != 1) {
            throw Error(Code::ShapeMismatch,
                        "expected one element, got " + std::to_string(elements.size()));
        }
        return elements[0];
    }

    /// One string in place, by its index in row-major order, valid as long as this tensor or a
    /// copy of it. Throws DTYPE_MISMATCH, INVALID_ARGUMENT if there are not so many.
    std::string_view string(std::size_t index) const & {
        detail::call([&](bridge::Status &s) { return raw().has_string(index, s); });
        const rust::Str text = raw().string(index);
        return {text.data(), text.size()};
    }
    std::string_view string(std::size_t index) const && = delete;

    /// Copies of the strings. Throws DTYPE_MISMATCH.
    std::vector<std::string> to_strings() const {
        if (dtype() != DType::String) {
            throw Error(Code::DTypeMismatch, "expected strings, got " + deepseek::name(dtype()));
        }
        std::vector<std::string> out;
        for (std::size_t i = 0; i < size(); i++) {
            out.emplace_back(string(i));
        }
        return out;
    }

private:
    friend class Value;
    friend class Inputs;
    friend class Session;
    friend class GraphBuilder;
    explicit Tensor(std::shared_ptr<const bridge::Tensor> handle) : handle_(std::move(handle)) {}
    const bridge::Tensor &raw() const { return detail::get(handle_, "tensor"); }
    std::shared_ptr<const bridge::Tensor> handle_;
};

/// What a model yields: a tensor nearly always; a sequence or an optional where the model
/// says so.
class Value {
public:
    /// Type, such as `f32[2, 3]` or `seq(f32[...])`.
    std::string type() const { return detail::to_string(raw().type_text()); }
    bool is_tensor() const { return raw().is_tensor(); }

    /// The tensor. Throws DTYPE_MISMATCH if the value is a sequence or an optional.
    Tensor tensor() const {
        return Tensor(detail::own(
            detail::call([&](bridge::Status &s) { return raw().to_tensor(s); })));
    }

    /// The items of a sequence; of an optional, its value if it has one. Throws DTYPE_MISMATCH
    /// if the value is a tensor.
    std::vector<Value> items() const {
        std::vector<Value> out;
        const auto count = detail::call([&](bridge::Status &s) { return raw().count(s); });
        for (std::size_t i = 0; i < count; i++) {
            out.push_back(Value(detail::own(
                detail::call([&](bridge::Status &s) { return raw().item(i, s); }))));
        }
        return out;
    }

private:
    friend class Outputs;
    explicit Value(std::shared_ptr<const bridge::Value> handle) : handle_(std::move(handle)) {}
    const bridge::Value &raw() const { return detail::get(handle_, "value"); }
    std::shared_ptr<const bridge::Value> handle_;
};

} // namespace deepseek

#endif
