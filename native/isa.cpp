#include "isa.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace trivet {
namespace {

constexpr Isa kAll[] = {Isa::generic, Isa::avx2, Isa::avx512, Isa::amx};

#ifdef __x86_64__

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
         __builtin_cpu_supports("bmi2");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

// The registers of tiles are large, so Linux saves them only for processes that have asked for it.
bool has_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;  // CPUID.7.0:EDX
  constexpr unsigned kOsXsave = 1u << 27;                                   // CPUID.1:ECX
  constexpr unsigned kTileState = 3u << 17;                                 // XCR0
  constexpr int kRequestPermission = 0x1023, kTileData = 18;                // ARCH_REQ_XCOMP_PERM
  unsigned a, b, c, d;
  if (!has_avx512() || !__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kBf16 | kTile | kInt8)) != (kBf16 | kTile | kInt8)) {
    return false;
  }
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTileState) == kTileState && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool runs(Isa isa) {
  switch (isa) {
    case Isa::generic:
      return true;
    case Isa::avx2:
      return has_avx2();
    case Isa::avx512:
      return has_avx512();
    case Isa::amx:
      return has_amx();
  }
  return false;
}

#else

bool runs(Isa isa) { return isa == Isa::generic; }

#endif

std::vector<Isa> native_isas() {
  std::vector<Isa> isas;
  std::copy_if(std::begin(kAll), std::end(kAll), std::back_inserter(isas), runs);
  return isas;
}

Isa choose() {
  const char* wanted = std::getenv("TRIVET_ISA");
  if (wanted == nullptr || *wanted == '\0') return native_isas().back();
  std::string names;
  for (Isa isa : available_isas()) {
    if (std::string(isa_name(isa)) == wanted) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::runtime_error("TRIVET_ISA=" + std::string(wanted) + " cannot run here; this processor offers " +
                           names);
}

}  // namespace

const char* isa_name(Isa isa) {
  constexpr const char* kNames[] = {"generic", "avx2", "avx512", "amx"};
  return kNames[static_cast<int>(isa)];
}

std::vector<Isa> available_isas() {
#ifdef TRIVET_EMULATE
  return {std::begin(kAll), std::end(kAll)};
#else
  return native_isas();
#endif
}

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace trivet
