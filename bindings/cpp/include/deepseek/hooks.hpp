// What C++ gives the library to keep: part of the implementation of deepseek.hpp.
#ifndef DEEPSEEK_HOOKS_HPP
#define DEEPSEEK_HOOKS_HPP

namespace deepseek::bridge {

struct Lists;
struct Outputs;
struct Status;

/// Owner of memory that a tensor looks into; destroyed, once, with the last tensor over it,
/// on any thread.
class Keep {
public:
    virtual ~Keep() = default;
};

/// Hears of the end of a run in the background; used once, on a thread of the library.
class Listener {
public:
    virtual ~Listener() = default;
    /// `outputs` (a box to take over) if the run succeeded, else null and the reason.
    virtual void done(Outputs *outputs, const Status &status) noexcept = 0;
};

/// As `Listener`, for a ragged run.
class ListsListener {
public:
    virtual ~ListsListener() = default;
    /// `lists` (a box to take over) if the run succeeded, else null and the reason.
    virtual void done(Lists *lists, const Status &status) noexcept = 0;
};

} // namespace deepseek::bridge

#endif
