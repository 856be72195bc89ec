// A check that fails prints where and why, and the program goes on and exits with 1.
#ifndef CHECK_HPP
#define CHECK_HPP

#include <deepseek.hpp>

#include <iostream>
#include <sstream>
#include <string>

inline int failures = 0;

inline void fail(const char *file, int line, const std::string &what) {
    std::cerr << file << ":" << line << ": " << what << "\n";
    failures++;
}

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fail(__FILE__, __LINE__, #condition);                                                  \
        }                                                                                          \
    } while (false)

template <class A, class B>
void check_equal(const A &a, const B &b, const char *file, int line, const char *what) {
    if (!(a == b)) {
        std::ostringstream text;
        text << what << ": " << a << " is not " << b;
        fail(file, line, text.str());
    }
}
#define CHECK_EQ(a, b) check_equal((a), (b), __FILE__, __LINE__, #a " == " #b)

// `call` throws a deepseek::Error with this code, whose message has all these parts.
template <class Call, class... Parts>
void check_throws(Call &&call, const char *file, int line, deepseek::Code code, Parts... parts) {
    try {
        call();
        fail(file, line, "nothing was thrown, expected " + deepseek::name(code));
    } catch (const deepseek::Error &e) {
        if (e.code() != code) {
            fail(file, line, "expected " + deepseek::name(code) + ", got " + e.what());
        }
        for (const std::string &part : std::initializer_list<std::string>{parts...}) {
            if (e.message().find(part) == std::string::npos) {
                fail(file, line, "no '" + part + "' in: " + e.what());
            }
        }
    } catch (const std::exception &e) {
        fail(file, line, std::string("not a deepseek::Error: ") + e.what());
    }
}
// CHECK_THROWS(call, Code, parts of the message…)
#define CHECK_THROWS(call, ...)                                                                    \
    check_throws([&] { call; }, __FILE__, __LINE__, deepseek::Code::__VA_ARGS__)

#endif
