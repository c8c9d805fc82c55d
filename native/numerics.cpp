#include "numerics.h"

#include <stdexcept>

namespace trivet {

Numerics numerics_of(const std::string& name) {
  if (name == "exact") return Numerics::exact;
  if (name == "fast") return Numerics::fast;
  throw std::invalid_argument("numerics must be exact or fast, got " + name);
}

}  // namespace trivet
