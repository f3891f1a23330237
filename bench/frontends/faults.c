// Times page faults on a mapped file, at random pages, each once; or reads it whole. The page cache of the file is dropped first.
// faults FILE random COUNT: prints the median in seconds; faults FILE sequential 0: prints seconds of reading all of it by 1 MiB.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const long PAGE = 4096;

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static int fail(const char *what) {
  perror(what);
  return 1;
}

static int faults(int fd, long pages, long count) {
  unsigned char *memory = mmap(NULL, (size_t)(pages * PAGE), PROT_READ, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return fail("mmap");
  // Without it the kernel maps pages around the one that faulted.
  if (madvise(memory, (size_t)(pages * PAGE), MADV_RANDOM)) return fail("madvise");
  double *times = malloc((size_t)count * sizeof *times);
  unsigned char *seen = calloc((size_t)pages, 1);
  volatile unsigned sum = 0;
  srand(3);
  for (long done = 0; done < count;) {
    long page = rand() % pages;
    if (seen[page]) continue;
    seen[page] = 1;
    double started = now();
    sum += memory[page * PAGE];
    times[done++] = now() - started;
  }
  qsort(times, (size_t)count, sizeof *times, ascending);
  printf("{\"p50\":%.9f,\"p99\":%.9f}\n", times[count / 2], times[count * 99 / 100]);
  return 0;
}

static int sequential(int fd) {
  char *buffer = malloc(1 << 20);
  double started = now();
  ssize_t got;
  while ((got = read(fd, buffer, 1 << 20)) > 0) {}
  if (got < 0) return fail("read");
  printf("{\"seconds\":%.9f}\n", now() - started);
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: faults FILE random|sequential COUNT\n"), 2;
  int fd = open(argv[1], O_RDONLY);
  struct stat stats;
  if (fd < 0 || fstat(fd, &stats)) return fail(argv[1]);
  if (posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)) return fail("posix_fadvise");
  return strcmp(argv[2], "random") == 0 ? faults(fd, stats.st_size / PAGE, atol(argv[3])) : sequential(fd);
}
