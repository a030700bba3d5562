// EXPECT: no match for call|no matching function for call
#include <string>

#include <pynisher/limit.hpp>

int twice(int x) { return 2 * x; }
int main() { return pynisher::limit(twice)(std::string("x")); }
