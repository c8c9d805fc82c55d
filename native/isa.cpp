#include "isa.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "trial.h"

#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#endif

namespace trivet {
namespace {

constexpr Isa kAll[] = {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx};

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

bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("gfni");
}

// The registers of tiles are large, so Linux saves them only for processes that have asked for it.
bool has_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;  // CPUID.7.0:EDX
  constexpr unsigned kOsXsave = 1u << 27;                                   // CPUID.1:ECX
  constexpr unsigned kTileState = 3u << 17;                                 // XCR0
  constexpr int kRequestPermission = 0x1023, kTileData = 18;                // ARCH_REQ_XCOMP_PERM
  unsigned a, b, c, d;
  if (!has_avx512_bf16() || !__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
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
    case Isa::avx512_bf16:
      return has_avx512_bf16();
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

// Kernels up to here are taken without a trial.
constexpr Isa kTrusted = Isa::avx2;

// Rounding to bfloat16 and to int8 is within this; see kernel_difference.
constexpr double kAgreement = 0.02;

// Whether the kernels give what those of kTrusted give. A process of its own tries, because a virtual machine
// may offer what it then cannot execute.
bool passes_trial(Isa isa) {
  constexpr unsigned kSeconds = 10;
  int ends[2];
  if (pipe(ends) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    for (int signal : {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGALRM}) std::signal(signal, SIG_DFL);
    alarm(kSeconds);
    const char passed = kernel_difference(isa, kTrusted) < kAgreement;
    _exit(write(ends[1], &passed, 1) == 1 ? 0 : 1);
  }
  close(ends[1]);
  char passed = 0;
  while (child > 0 && read(ends[0], &passed, 1) < 0 && errno == EINTR) {
  }
  close(ends[0]);
  if (child > 0) waitpid(child, nullptr, 0);
  return passed != 0;
}

struct Choice {
  Isa isa;
  std::vector<Isa> failed;
};

Choice choose() {
  const char* wanted = std::getenv("TRIVET_ISA");
  if (wanted == nullptr || *wanted == '\0') {
    std::vector<Isa> isas = native_isas(), failed;
    for (; isas.back() > kTrusted && !passes_trial(isas.back()); isas.pop_back())
      failed.push_back(isas.back());
    return {isas.back(), failed};
  }
  std::string names;
  for (Isa isa : available_isas()) {
    if (std::string(isa_name(isa)) == wanted) return {isa, {}};
    names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::runtime_error("TRIVET_ISA=" + std::string(wanted) + " cannot run here; this processor offers " +
                           names);
}

const Choice& choice() {
  static const Choice choice = choose();
  return choice;
}

}  // namespace

const char* isa_name(Isa isa) {
  constexpr const char* kNames[] = {"generic", "avx2", "avx512", "avx512_bf16", "amx"};
  return kNames[static_cast<int>(isa)];
}

std::vector<Isa> available_isas() {
#ifdef TRIVET_EMULATE
  return {std::begin(kAll), std::end(kAll)};
#else
  return native_isas();
#endif
}

Isa active_isa() { return choice().isa; }

const std::vector<Isa>& failed_isas() { return choice().failed; }

}  // namespace trivet
