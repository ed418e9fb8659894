// What a virtual core gives alone and beside others: multiply-adds by AMX, dependent additions, reads from memory, and
// pages that are touched first. cores.txt is what it printed: g++ -O2 -mavx2 -pthread cores.cpp -o cores && ./cores
#include <immintrin.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>
using Clock = std::chrono::steady_clock;
static double now() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}
struct alignas(64) Cfg {
  unsigned char palette, start, r[14];
  unsigned short cols[16];
  unsigned char rows[16];
};
__attribute__((target("amx-tile,amx-int8"))) static double amx(double s) {
  Cfg c{};
  c.palette = 1;
  for (int i = 0; i < 8; ++i) {
    c.cols[i] = 64;
    c.rows[i] = 16;
  }
  _tile_loadconfig(&c);
  alignas(64) static thread_local char buf[1024];
  _tile_loadd(4, buf, 64);
  _tile_loadd(5, buf, 64);
  _tile_loadd(6, buf, 64);
  _tile_loadd(7, buf, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  long n = 0;
  double t0 = now(), t;
  do {
    for (int i = 0; i < 1000; ++i) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
    n += 4000;
  } while ((t = now()) - t0 < s);
  return n / (t - t0) * 16 * 16 * 64 / 1e9;  // GMAC/s
}
static double adds(double s) {
  long n = 0;
  double t0 = now(), t;
  unsigned long x = 1;
  do {
    for (int i = 0; i < 10000; ++i) asm volatile("add $1,%0\n add $1,%0\n add $1,%0\n add $1,%0\n" : "+r"(x));
    n += 40000;
  } while ((t = now()) - t0 < s);
  return n / (t - t0) / 1e9;
}
static double reads(double s) {
  const size_t bytes = 256u << 20;
  static thread_local char* p = nullptr;
  if (!p) {
    p = (char*)mmap(0, bytes, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(p, bytes, 14);
    memset(p, 1, bytes);
  }
  long n = 0;
  double t0 = now(), t;
  __m256i a = _mm256_setzero_si256();
  do {
    for (size_t i = 0; i < (8u << 20); i += 64) {
      a = _mm256_xor_si256(a, _mm256_load_si256((__m256i*)(p + (n % bytes) + i)));
      a = _mm256_xor_si256(a, _mm256_load_si256((__m256i*)(p + (n % bytes) + i + 32)));
    }
    n += 8 << 20;
  } while ((t = now()) - t0 < s);
  volatile int sink = _mm256_extract_epi32(a, 0);
  (void)sink;
  return n / (t - t0) / 1e9;
}
static double faults(double s) {
  const size_t bytes = 8u << 20;
  long n = 0;
  double t0 = now(), t;
  do {
    char* p = (char*)mmap(0, bytes, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < bytes; i += 4096) p[i] = 1;
    munmap(p, bytes);
    n += bytes / 4096;
  } while ((t = now()) - t0 < s);
  return (t - t0) / n * 1e6;
}
static double huge(double s) {
  const size_t bytes = 8u << 20;
  long n = 0;
  double t0 = now(), t;
  do {
    char* q = (char*)mmap(0, bytes + (2 << 20), 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char* p = (char*)(((size_t)q + (2 << 20) - 1) >> 21 << 21);
    madvise(p, bytes, 14);
    for (size_t i = 0; i < bytes; i += 4096) p[i] = 1;
    munmap(q, bytes + (2 << 20));
    n += 4;
  } while ((t = now()) - t0 < s);
  return (t - t0) / n * 1e6;
}
int main() {
  if (syscall(SYS_arch_prctl, 0x1023, 18)) perror("amx");
  const int all = sysconf(_SC_NPROCESSORS_ONLN);
  auto lists = std::vector<std::pair<const char*, std::vector<int>>>{};
  auto add = [&](const char* name, int n, int step) {
    std::vector<int> v;
    for (int i = 0; i < n && i * step < all; ++i) v.push_back(i * step);
    if ((int)v.size() == n) lists.push_back({name, v});
  };
  add("1", 1, 1);
  add("2 adjacent", 2, 1);
  add("2 far (0,16)", 2, 16);
  add("4 adjacent", 4, 1);
  add("8 adjacent", 8, 1);
  add("8 even", 8, 2);
  add("16 adjacent", 16, 1);
  add("16 even", 16, 2);
  add("32", 32, 1);
  struct Test {
    const char* name;
    double (*f)(double);
  };
  const Test tests[] = {{"amx GMAC/s", amx},
                        {"adds/ns", adds},
                        {"read GB/s", reads},
                        {"us/4K fault", faults},
                        {"us/2M fault", huge}};
  for (auto& [name, cpus] : lists) {
    printf("%-14s", name);
    for (auto& test : tests) {
      std::vector<double> r(cpus.size());
      std::vector<std::thread> ts;
      std::atomic<int> ready{0};
      for (size_t i = 0; i < cpus.size(); ++i)
        ts.emplace_back([&, i] {
          cpu_set_t s;
          CPU_ZERO(&s);
          CPU_SET(cpus[i], &s);
          pthread_setaffinity_np(pthread_self(), sizeof s, &s);
          test.f(0.02);
          ++ready;
          while (ready < (int)cpus.size())
            ;
          r[i] = test.f(0.15);
        });
      for (auto& t : ts) t.join();
      double sum = 0, lo = 1e30;
      for (double x : r) {
        sum += x;
        lo = x < lo ? x : lo;
      }
      printf(" | %s mean %.3f min %.3f", test.name, sum / r.size(), lo);
    }
    printf("\n");
    fflush(stdout);
  }
}
