#include "unit/restricted_header.hpp"

namespace restricted_in_header {

int call_all_of_them(int x) {
  const service s;
  return limited_function(x) + static_cast<int>(limited_lambda("abc").value_or(0)) + shared_lambda(x) +
         service::parse("100") + s.member(x);
}

}  // namespace restricted_in_header
