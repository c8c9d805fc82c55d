#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace trivet {
namespace {

Isa choose() {
  const std::vector<Isa> available = available_isas();
  const char* wanted = std::getenv("TRIVET_ISA");
  if (wanted == nullptr || *wanted == '\0') return available.back();
  std::string names;
  for (Isa isa : available) {
    if (std::string(isa_name(isa)) == wanted) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::runtime_error("TRIVET_ISA=" + std::string(wanted) + " cannot run here; this processor offers " +
                           names);
}

}  // namespace

const char* isa_name(Isa isa) { return isa == Isa::avx2 ? "avx2" : "generic"; }

std::vector<Isa> available_isas() {
  std::vector<Isa> isas = {Isa::generic};
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
      __builtin_cpu_supports("bmi2")) {
    isas.push_back(Isa::avx2);
  }
#endif
  return isas;
}

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace trivet
