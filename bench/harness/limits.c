// What this machine can do at best: bytes read from memory, and products a second of 8-bit numbers, of bfloat16 and of
// float32.
//   cc -O3 -march=native -pthread limits.c -o limits && ./limits THREADS
// prints JSON: read (10^9 bytes/s), int8, bf16 and fma (10^9 multiply-adds/s), and what they were computed with.
//   ./limits THREADS reads
// reads memory for kMoment seconds at each line of its input, and prints 10^9 bytes/s.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { kBytes = 256 << 20, kRounds = 1 << 20 };
static const double kSeconds = 1.5, kMoment = 0.1;

typedef long long Vector __attribute__((vector_size(64)));

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static Vector* buffers[256];
static volatile long long sink;

static void read_memory(int thread) {
  Vector sum[8] = {{0}};
  const Vector* p = buffers[thread];
  for (long i = 0; i < kBytes / (long)sizeof(Vector); i += 8)
    for (int j = 0; j < 8; ++j) sum[j] ^= p[i + j];
  for (int j = 1; j < 8; ++j) sum[0] ^= sum[j];
  sink = sum[0][0];
}

// Each function does kRounds rounds of independent products on registers; `..._products` says of how many each.
#define KEEP(x) __asm__ volatile("" : "+v"(x))

#if defined(__AVX512F__)
static const char* kFma = "AVX-512 FMA";
static const double kFmaProducts = 12 * 16;
static void fma_products(int thread) {
  __m512 sum[12], a = _mm512_set1_ps(1e-3f), b = _mm512_set1_ps(0.5f);
  for (int j = 0; j < 12; ++j) sum[j] = _mm512_setzero_ps();
  for (int i = 0; i < kRounds; ++i) {
    KEEP(a);
    for (int j = 0; j < 12; ++j) sum[j] = _mm512_fmadd_ps(a, b, sum[j]);
  }
  for (int j = 0; j < 12; ++j) KEEP(sum[j]);
}
#else
static const char* kFma = "AVX2 FMA";
static const double kFmaProducts = 12 * 8;
static void fma_products(int thread) {
  __m256 sum[12], a = _mm256_set1_ps(1e-3f), b = _mm256_set1_ps(0.5f);
  for (int j = 0; j < 12; ++j) sum[j] = _mm256_setzero_ps();
  for (int i = 0; i < kRounds; ++i) {
    KEEP(a);
    for (int j = 0; j < 12; ++j) sum[j] = _mm256_fmadd_ps(a, b, sum[j]);
  }
  for (int j = 0; j < 12; ++j) KEEP(sum[j]);
}
#endif

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
static const struct {
  unsigned char palette, start, reserved[14];
  unsigned short columns[16];
  unsigned char rows[16];
} kTiles = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static void configure(void) {
  enum { kRequestPermission = 0x1023, kTileData = 18 };
  syscall(SYS_arch_prctl, kRequestPermission, kTileData);
  __asm__ volatile("ldtilecfg %0" ::"m"(kTiles) : "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
}
static const char* kInt8 = "AMX int8";
static const double kInt8Products = 4.0 * 16 * 16 * 64 / 16;
static void int8_products(int thread) {
  configure();
  for (int i = 0; i < kRounds / 16; ++i) {
    _tile_dpbssd(0, 4, 6); _tile_dpbssd(1, 4, 7); _tile_dpbssd(2, 5, 6); _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
}
static const char* kBf16 = "AMX bf16";
static const double kBf16Products = 4.0 * 16 * 16 * 32 / 16;
static void bf16_products(int thread) {
  configure();
  for (int i = 0; i < kRounds / 16; ++i) {
    _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}
#else
#if defined(__AVX512VNNI__)
static const char* kInt8 = "AVX-512 VNNI";
static const double kInt8Products = 12 * 64;
static void int8_products(int thread) {
  __m512i sum[12], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int j = 0; j < 12; ++j) sum[j] = _mm512_setzero_si512();
  for (int i = 0; i < kRounds; ++i) {
    KEEP(a);
    for (int j = 0; j < 12; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], a, b);
  }
  for (int j = 0; j < 12; ++j) KEEP(sum[j]);
}
#elif defined(__AVX2__)
static const char* kInt8 = "AVX2 maddubs, summed in 16 bits";
static const double kInt8Products = 12 * 32;
static void int8_products(int thread) {
  __m256i sum[12], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  for (int j = 0; j < 12; ++j) sum[j] = _mm256_setzero_si256();
  for (int i = 0; i < kRounds; ++i) {
    for (int j = 0; j < 12; ++j) {
      KEEP(a);
      sum[j] = _mm256_add_epi16(sum[j], _mm256_maddubs_epi16(a, b));
    }
  }
  for (int j = 0; j < 12; ++j) KEEP(sum[j]);
}
#else
#error "say here how this processor multiplies 8-bit numbers"
#endif
#if defined(__AVX512BF16__)
static const char* kBf16 = "AVX-512 BF16";
static const double kBf16Products = 12 * 32;
static void bf16_products(int thread) {
  __m512 sum[12], a = _mm512_set1_ps(1e-3f), b = _mm512_set1_ps(0.5f);
  for (int j = 0; j < 12; ++j) sum[j] = _mm512_setzero_ps();
  for (int i = 0; i < kRounds; ++i) {
    KEEP(a);
    for (int j = 0; j < 12; ++j) sum[j] = _mm512_dpbf16_ps(sum[j], (__m512bh)a, (__m512bh)b);
  }
  for (int j = 0; j < 12; ++j) KEEP(sum[j]);
}
#else  // bfloat16 is multiplied as float32
#define bf16_products fma_products
#define kBf16 kFma
#define kBf16Products kFmaProducts
#endif
#endif

static pthread_barrier_t barrier;
static int threads;
static double read_rate, int8_rate, bf16_rate, fma_rate;

// The best of many short passes: others on the machine only take away.
static void best(int thread, void (*work)(int), double amount, double seconds, double* rate) {
  static volatile int more;
  double begin = now();
  for (;;) {
    if (thread == 0) more = now() - begin < seconds;
    pthread_barrier_wait(&barrier);
    int last = !more;
    pthread_barrier_wait(&barrier);
    if (last) break;
    double start = now();
    work(thread);
    pthread_barrier_wait(&barrier);
    double found = threads * amount / (now() - start) / 1e9;
    if (thread == 0 && found > *rate) *rate = found;
  }
}

static void allocate(int thread) {
  buffers[thread] = aligned_alloc(2 << 20, kBytes);
  madvise(buffers[thread], kBytes, MADV_HUGEPAGE);
  memset(buffers[thread], 1, kBytes);
}

static void* measure_all(void* argument) {
  int thread = (int)(long)argument;
  allocate(thread);
  best(thread, read_memory, kBytes, kSeconds, &read_rate);
  best(thread, int8_products, kInt8Products * kRounds, kSeconds, &int8_rate);
  best(thread, fma_products, kFmaProducts * kRounds, kSeconds, &fma_rate);
  best(thread, bf16_products, kBf16Products * kRounds, kSeconds, &bf16_rate);
  return NULL;
}

static void* measure_reads(void* argument) {
  int thread = (int)(long)argument;
  static volatile int asked;
  char line[16];
  allocate(thread);
  for (;;) {
    if (thread == 0) {
      asked = fgets(line, sizeof line, stdin) != NULL;
      read_rate = 0;
    }
    pthread_barrier_wait(&barrier);
    if (!asked) return NULL;
    best(thread, read_memory, kBytes, kMoment, &read_rate);
    if (thread == 0) {
      printf("%.2f\n", read_rate);
      fflush(stdout);
    }
  }
}

int main(int argc, char** argv) {
  threads = argc > 1 ? atoi(argv[1]) : 1;
  if (threads < 1 || threads > 256) return 1;
  pthread_barrier_init(&barrier, NULL, threads);
  pthread_t all[256];
  int reads = argc > 2 && strcmp(argv[2], "reads") == 0;
  for (long t = 0; t < threads; ++t) pthread_create(&all[t], NULL, reads ? measure_reads : measure_all, (void*)t);
  for (int t = 0; t < threads; ++t) pthread_join(all[t], NULL);
  if (reads) return 0;
  printf("{\"read\": %.2f, \"int8\": %.1f, \"bf16\": %.1f, \"fma\": %.1f, ", read_rate, int8_rate, bf16_rate, fma_rate);
  printf("\"int8_with\": \"%s\", \"bf16_with\": \"%s\", \"fma_with\": \"%s\"}\n", kInt8, kBf16, kFma);
  return 0;
}
