// A second file that includes the header: its functions are inline.
#include <deepseek.hpp>

std::string other_version();
std::string other_version() { return deepseek::version(); }
