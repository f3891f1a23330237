/*
 * A program as exec.test.ts starts it: says on standard output, as one line of JSON, what it was started with, and what became of advice about memory of its own. Then it exits with 7.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE (8UL << 20)

/* The two-letter flags of the mapping that begins at `address`, from /proc/self/smaps. */
static void print_flags(const char *name, const void *address) {
  char line[512], start[32];
  int found = 0;
  FILE *smaps = fopen("/proc/self/smaps", "r");
  snprintf(start, sizeof start, "%lx-", (unsigned long)address);
  while (fgets(line, sizeof line, smaps)) {
    if (strncmp(line, start, strlen(start)) == 0) found = 1;
    if (!found || strncmp(line, "VmFlags:", 8) != 0) continue;
    line[strcspn(line, "\n")] = 0;
    printf("\"%s\":\"%s \",", name, line + 8);
    break;
  }
  fclose(smaps);
}

static void print_descriptors(void) {
  struct dirent *entry;
  const char *comma = "";
  DIR *folder = opendir("/proc/self/fd");
  printf("\"fds\":[");
  while ((entry = readdir(folder)))
    if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(folder)) printf("%s%s", comma, entry->d_name), comma = ",";
  printf("],");
  closedir(folder);
}

static int is_default(int signal) {
  struct sigaction action;
  return sigaction(signal, NULL, &action) == 0 && action.sa_handler == SIG_DFL;
}

/* Bytes in hex, so that any are visible. */
static void print_arguments(char **argv) {
  printf("\"argv\":[");
  for (int i = 0; argv[i]; i++) {
    printf(i ? ",\"" : "\"");
    for (const unsigned char *c = (const unsigned char *)argv[i]; *c; c++) printf("%02x", *c);
    printf("\"");
  }
  printf("],");
}

int main(int argc, char **argv) {
  sigset_t blocked;
  (void)argc;
  char *reserved = mmap(NULL, 2 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char *memory = mmap(reserved, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  int huge = madvise(memory, SIZE, MADV_HUGEPAGE);
  int dontfork = madvise(memory, SIZE, MADV_DONTFORK);
  int wrong = madvise(memory, SIZE, 12345) < 0 ? errno : 0;
  int is_blocking = 1, is_unblocked = 1;
  for (int fd = 0; fd < 3; fd++) is_blocking &= !(fcntl(fd, F_GETFL) & O_NONBLOCK);
  sigprocmask(SIG_SETMASK, NULL, &blocked);
  for (int signal = 1; signal < 32; signal++) is_unblocked &= !sigismember(&blocked, signal);

  printf("{\"pid\":%d,\"huge\":%d,\"dontfork\":%d,\"wrong\":%d,", getpid(), huge, dontfork, wrong);
  print_flags("flags", memory);
  print_descriptors();
  print_arguments(argv);
  printf("\"defaults\":%d,\"blocking\":%d,\"unblocked\":%d}\n", is_default(SIGPIPE) && is_default(SIGXFSZ), is_blocking, is_unblocked);
  fflush(stdout);
  return 7;
}
