/*
 * A stand-in for a VMM that loads a snapshot whose memory comes by userfaultfd: no guest, but memory that faults, removes, writes and diffs as one.
 *
 *   vmm --socket PATH --image FILE --region SIZE@OFFSET[:PAGESIZE]… [options]         (options: see `parse_options`; commands: see COMMANDS)
 *
 * It follows Firecracker (sources of August 2026; facts only): src/vmm/src/persist.rs for how memory is mapped, registered and announced, vstate/vm.rs for
 * diff snapshots, docs/snapshotting/handling-page-faults-on-snapshot-resume.md for the rest. One message, a JSON array of regions, with the userfaultfd as
 * SCM_RIGHTS; the socket then stays open and silent. The other options are what a hostile or an older VMM would do instead.
 *
 * Commands come line by line on standard input; each is answered by one line of JSON on standard output, `{"error":…}` if it could not be done. The first
 * line, `{"ready":true}`, says that the handshake was sent. End of input ends it, and so does the death of whoever started it.
 *
 * Every page has a shadow: what it must hold now. A page is the image's bytes, or zeroes since it was removed, and its first half may be stamped with a byte
 * since it was written; the second half shows whether the right page lay below. `lock_page` and `page_is_right` are a sequence lock a page: who changes a
 * page marks it; who reads it while it changes accepts either state, word by word, but no others; all other reads must be exact. Readers never hold up
 * a removal, so that faults, removals and late copies of the same page do race.
 *
 * It does not run code, keep devices, or clear what was written after a diff. Pages are 4 KiB everywhere, also in regions of huge pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFDIO_POISON /* Linux 6.6 */
struct uffdio_poison {
  struct uffdio_range range;
  __u64 mode;
  __s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif

#define PAGE_BYTES ((size_t)4096)
#define HUGE_BYTES ((size_t)2 << 20)
#define WORDS (PAGE_BYTES / sizeof(uint64_t))
#define STAMPED_WORDS (WORDS / 2)
#define REGIONS_MAX 16
#define THREADS_MAX 64
#define CONNECTIONS_MAX 8
#define DESCRIPTORS_MAX 200 /* the kernel takes 253 a message */
#define OVERSIZED_BYTES ((size_t)1 << 20)
#define SPLIT_PAUSE_MS 50
#define SEND_TIMEOUT_S 2
#define WRONG_SHOWN_MAX 8
#define STORM_REMOVED_PAGES_MAX 8 /* at once, where pages are not huge */

/* A page's shadow word: these flags, the stamp in the second byte, and above it a number that grows with every change. */
enum { CHANGING = 1, REMOVED = 2, STAMPED = 4, WRITTEN = 8 /* ever since the start, as a log of dirty pages has it */ };
#define STAMP_SHIFT 8
#define CHANGE_ONE ((uint64_t)1 << 16)
#define BYTE_WORD 0x0101010101010101ull

struct region {
  char *base;
  size_t bytes, offset, page_bytes, pages;
  bool plugged;
  _Atomic uint64_t *shadow; /* one a page */
  atomic_bool *touched;     /* one a page: whether this process has read or written it since the start */
};

static struct region regions[REGIONS_MAX];
static size_t region_count;
static const char *image;
static size_t image_bytes;
static int uffd = -1;
static int sockets[CONNECTIONS_MAX];
static atomic_uint wrong_shown;

static struct {
  const char *socket, *image, *fields, *delivery, *lie, *events;
  unsigned descriptors, connections;
  long uid;
  int extra_fields, blocking, unregistered, other_descriptor, forgetful;
} options = {.fields = "both", .delivery = "whole", .lie = "none", .events = "remove", .descriptors = 1, .connections = 1, .uid = -1};

/* ---- small things ---- */

/* Ends it because a system call failed. */
static void fail(const char *what) {
  fprintf(stderr, "vmm: %s: %s\n", what, strerror(errno));
  exit(1);
}

/* Ends it because it was started wrongly. */
static void refuse(const char *what) {
  fprintf(stderr, "vmm: %s\n", what);
  exit(2);
}

static void *checked(void *memory) {
  if (memory == NULL || memory == MAP_FAILED) fail("memory");
  return memory;
}

__attribute__((format(printf, 1, 2))) static void answer(const char *format, ...) {
  va_list values;
  va_start(values, format);
  vprintf(format, values);
  va_end(values);
  putchar('\n');
  fflush(stdout);
}

static bool is(const char *word, const char *other) { return strcmp(word, other) == 0; }

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void pause_us(uint64_t us) {
  struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000 * 1000)};
  nanosleep(&t, NULL);
}

/* splitmix64: any seed will do, also 0. */
static uint64_t next_random(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

static bool parse_number(const char *word, uint64_t *value) {
  char *end;
  errno = 0;
  *value = strtoull(word, &end, 10);
  return errno == 0 && end != word && *end == '\0' && *word != '-';
}

/* ---- memory ---- */

/* At a multiple of 2 MiB whatever the page size, as Firecracker has it; what surplus the alignment leaves stays reserved, a guard on either side. */
static char *map_region(const struct region *r) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  int access = r->plugged ? PROT_READ | PROT_WRITE : PROT_NONE;
  if (r->page_bytes == HUGE_BYTES) return checked(mmap(NULL, r->bytes, access, flags | MAP_HUGETLB, -1, 0));
  uintptr_t reserved = (uintptr_t)checked(mmap(NULL, r->bytes + 2 * HUGE_BYTES, PROT_NONE, flags, -1, 0));
  char *base = (char *)((reserved + HUGE_BYTES) & ~(HUGE_BYTES - 1));
  if (mprotect(base, r->bytes, access)) fail("mprotect");
  return base;
}

static void map_image(const char *path) {
  struct stat stat;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &stat)) fail(path);
  image_bytes = (size_t)stat.st_size;
  if (image_bytes > 0) image = checked(mmap(NULL, image_bytes, PROT_READ, MAP_SHARED, fd, 0));
  close(fd);
}

/* By the device where there is one, else by the system call: kernels differ in which of them asks for which privilege. */
static int open_userfaultfd(void) {
  int flags = O_CLOEXEC | (options.blocking ? 0 : O_NONBLOCK);
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  int fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, flags);
  if (device >= 0) close(device);
  return fd >= 0 ? fd : (int)syscall(SYS_userfaultfd, flags);
}

static void register_memory(void) {
  uint64_t others = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP;
  uint64_t remove = is(options.events, "none") ? 0 : UFFD_FEATURE_EVENT_REMOVE;
  struct uffdio_api api = {.api = UFFD_API, .features = remove | (is(options.events, "all") ? others : 0)};
  uffd = open_userfaultfd();
  if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) fail("userfaultfd");
  for (struct region *r = regions; r < regions + region_count; r++) {
    r->base = map_region(r);
    r->shadow = checked(calloc(r->pages, sizeof *r->shadow));
    r->touched = checked(calloc(r->pages, sizeof *r->touched));
    struct uffdio_register range = {.range = {(uintptr_t)r->base, r->bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (!options.unregistered && ioctl(uffd, UFFDIO_REGISTER, &range)) fail("UFFDIO_REGISTER");
  }
}

/* ---- the shadow ---- */

/* Marks a page as changing, which only one thread at a time can. Who locks several takes them in ascending order. Returns the shadow word before. */
static uint64_t lock_page(struct region *r, size_t page) {
  uint64_t was = atomic_load(&r->shadow[page]);
  while ((was & CHANGING) || !atomic_compare_exchange_weak(&r->shadow[page], &was, was | CHANGING)) {
    sched_yield();
    was = atomic_load(&r->shadow[page]);
  }
  atomic_thread_fence(memory_order_seq_cst);
  return was;
}

/* `state` is the flags and the stamp that hold from now on. */
static void unlock_page(struct region *r, size_t page, uint64_t was, uint64_t state) {
  uint64_t change = (was & ~(CHANGE_ONE - 1)) + CHANGE_ONE;
  atomic_store_explicit(&r->shadow[page], change | state, memory_order_release);
}

/* The image's bytes of a page; past its end they are zero. `buffer` is used for the page that the image ends in. */
static const uint64_t *image_page(const struct region *r, size_t page, uint64_t buffer[WORDS]) {
  size_t at = r->offset + page * PAGE_BYTES;
  if (at + PAGE_BYTES <= image_bytes) return (const uint64_t *)(image + at);
  memset(buffer, 0, PAGE_BYTES);
  if (at < image_bytes) memcpy(buffer, image + at, image_bytes - at);
  return buffer;
}

static bool word_is_right(uint64_t seen, uint64_t from_image, uint64_t state, bool in_stamped_half) {
  if (in_stamped_half && (state & STAMPED)) return seen == (state >> STAMP_SHIFT & 0xff) * BYTE_WORD;
  return seen == (state & REMOVED ? 0 : from_image);
}

static bool word_may_be_seen(uint64_t seen, uint64_t from_image, bool in_stamped_half) {
  return seen == 0 || seen == from_image || (in_stamped_half && seen == (seen & 0xff) * BYTE_WORD);
}

static void show_wrong(const struct region *r, size_t page, size_t word, uint64_t seen, uint64_t state, bool stable) {
  if (atomic_fetch_add(&wrong_shown, 1) >= WRONG_SHOWN_MAX) return;
  fprintf(stderr, "vmm: region %td page %zu word %zu reads %016llx;%s%s%s%s\n", r - regions, page, word, (unsigned long long)seen,
          state & REMOVED ? " removed" : "", state & STAMPED ? " stamped" : "", state & WRITTEN ? " written" : "", stable ? "" : " changing");
}

/* Reads a page, which may fault, and compares it with its shadow. */
static bool page_is_right(struct region *r, size_t page) {
  uint64_t seen[WORDS], buffer[WORDS];
  const uint64_t *words = (const uint64_t *)(r->base + page * PAGE_BYTES);
  uint64_t before = atomic_load_explicit(&r->shadow[page], memory_order_acquire);
  for (size_t w = 0; w < WORDS; w++) seen[w] = __atomic_load_n(&words[w], __ATOMIC_RELAXED);
  atomic_thread_fence(memory_order_acquire);
  bool stable = !(before & CHANGING) && before == atomic_load_explicit(&r->shadow[page], memory_order_relaxed);
  atomic_store_explicit(&r->touched[page], true, memory_order_relaxed);
  const uint64_t *from_image = image_page(r, page, buffer);
  for (size_t w = 0; w < WORDS; w++) {
    bool half = w < STAMPED_WORDS;
    if (stable ? word_is_right(seen[w], from_image[w], before, half) : word_may_be_seen(seen[w], from_image[w], half)) continue;
    show_wrong(r, page, w, seen[w], before, stable);
    return false;
  }
  return true;
}

static void write_page(struct region *r, size_t page, unsigned char byte) {
  uint64_t was = lock_page(r, page);
  uint64_t *words = (uint64_t *)(r->base + page * PAGE_BYTES);
  for (size_t w = 0; w < STAMPED_WORDS; w++) __atomic_store_n(&words[w], byte * BYTE_WORD, __ATOMIC_RELAXED);
  atomic_store_explicit(&r->touched[page], true, memory_order_relaxed);
  unlock_page(r, page, was, (was & REMOVED) | STAMPED | WRITTEN | (uint64_t)byte << STAMP_SHIFT);
}

/* As a balloon does. Returns an errno. */
static int remove_pages(struct region *r, size_t from, size_t count) {
  size_t unit = r->page_bytes / PAGE_BYTES;
  if (from % unit || count % unit) return EINVAL;
  uint64_t *was = checked(malloc(count * sizeof *was));
  for (size_t i = 0; i < count; i++) was[i] = lock_page(r, from + i);
  int error = madvise(r->base + from * PAGE_BYTES, count * PAGE_BYTES, MADV_DONTNEED) ? errno : 0;
  for (size_t i = 0; i < count; i++) {
    uint64_t kept = was[i] & (error ? CHANGE_ONE - 1 : WRITTEN);
    unlock_page(r, from + i, was[i], error ? kept : kept | REMOVED);
  }
  free(was);
  return error;
}

/* ---- the handshake ---- */

struct claim {
  uint64_t base, bytes, offset, page_bytes;
};

/* What a hostile VMM adds to the true claim of its first region. */
static const struct {
  const char *name;
  struct claim add;
} LIES[] = {
    {"none", {0}},
    {"overlap", {0}}, /* that region twice, a page apart */
    {"base-unaligned", {.base = 1}},
    {"base-foreign", {.base = 1ull << 40}},                /* memory that it never registered */
    {"base-in-kernel", {.base = 0xffff800000000000}},
    {"size-unaligned", {.bytes = 1}},
    {"size-beyond-image", {.bytes = 1ull << 40}},
    {"size-absurd", {.bytes = 1ull << 63}},
    {"offset-unaligned", {.offset = 512}},
    {"offset-beyond-image", {.offset = 1ull << 40}},
    {"offset-absurd", {.offset = 1ull << 63}},
    {"page-size-odd", {.page_bytes = 1}},
    {"page-size-absurd", {.page_bytes = 1ull << 40}},
};

/* Fills `claims`, which has room for one more than there are regions. Returns how many there are. */
static size_t make_claims(struct claim *claims) {
  for (size_t i = 0; i < region_count; i++) {
    struct region *r = &regions[i];
    claims[i] = (struct claim){(uintptr_t)r->base, r->bytes, r->offset, r->page_bytes};
  }
  if (is(options.lie, "overlap")) {
    claims[region_count] = claims[0];
    claims[region_count].base += PAGE_BYTES;
    return region_count + 1;
  }
  for (size_t i = 0; i < sizeof LIES / sizeof *LIES; i++) {
    if (!is(options.lie, LIES[i].name)) continue;
    claims[0].base += LIES[i].add.base;
    claims[0].bytes += LIES[i].add.bytes;
    claims[0].offset += LIES[i].add.offset;
    claims[0].page_bytes += LIES[i].add.page_bytes;
  }
  return region_count;
}

static void print_claim(FILE *out, const struct claim *claim) {
  fprintf(out, "{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu", (unsigned long long)claim->base,
          (unsigned long long)claim->bytes, (unsigned long long)claim->offset);
  /* Bytes under either name. Until 1.11 there was the second alone; from 2.0 on it will be the first alone. */
  if (!is(options.fields, "page_size_kib")) fprintf(out, ",\"page_size\":%llu", (unsigned long long)claim->page_bytes);
  if (!is(options.fields, "page_size")) fprintf(out, ",\"page_size_kib\":%llu", (unsigned long long)claim->page_bytes);
  if (options.extra_fields) fprintf(out, ",\"numa_node\":null,\"slots\":[{\"plugged\":true,\"name\":\"a \\\"slot\\\" [0]\"}]");
  fputc('}', out);
}

static void print_handshake(FILE *out) {
  if (is(options.delivery, "garbage")) {
    for (int i = 0; i < 256; i++) fputc(255 - i, out);
  } else if (is(options.delivery, "oversized")) {
    fprintf(out, "[%*s]", (int)OVERSIZED_BYTES, "");
  } else if (is(options.delivery, "empty")) {
    fputs("[]", out);
  } else if (is(options.delivery, "not-array")) {
    fputs("{\"base_host_virt_addr\":4096}", out);
  } else if (is(options.delivery, "nonsense")) {
    fputs("[{\"base_host_virt_addr\":1e400,\"size\":-4096,\"offset\":1.5,\"page_size\":\"4096\"},null,[]]", out);
  } else {
    struct claim claims[REGIONS_MAX + 1];
    size_t count = make_claims(claims);
    for (size_t i = 0; i < count; i++) {
      fputc(i == 0 ? '[' : ',', out);
      print_claim(out, &claims[i]);
    }
    fputc(']', out);
  }
}

/* Sends all of `bytes`, with descriptors if `with_descriptors`. A peer that hangs up or stops reading is no failure of a hostile VMM. */
static void send_bytes(int fd, char *bytes, size_t size, bool with_descriptors) {
  int fds[DESCRIPTORS_MAX], other = open("/dev/null", O_RDONLY | O_CLOEXEC);
  for (int i = 0; i < DESCRIPTORS_MAX; i++) fds[i] = i == 0 && !options.other_descriptor ? uffd : other;
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof fds)] = {0};
  struct iovec part = {bytes, size};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (with_descriptors && options.descriptors > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(options.descriptors * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(options.descriptors * sizeof(int));
    memcpy(CMSG_DATA(header), fds, options.descriptors * sizeof(int));
  }
  while (part.iov_len > 0) {
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && is(options.delivery, "whole")) fail("handshake");
    if (sent < 0) break;
    part.iov_base = (char *)part.iov_base + sent;
    part.iov_len -= (size_t)sent;
    message.msg_control = NULL;
    message.msg_controllen = 0;
  }
  close(other);
}

static void send_handshake(int fd) {
  char *bytes;
  size_t size;
  FILE *out = checked(open_memstream(&bytes, &size));
  print_handshake(out);
  fclose(out);
  bool split = is(options.delivery, "split"), late = is(options.delivery, "late-descriptor"), truncated = is(options.delivery, "truncated");
  size_t first = split || late || truncated ? size / 2 : size;
  if (!is(options.delivery, "silent")) send_bytes(fd, bytes, first, !late);
  if (split || late) {
    pause_us(SPLIT_PAUSE_MS * 1000);
    send_bytes(fd, bytes + first, size - first, late);
  }
  free(bytes);
}

static int connect_socket(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct timeval timeout = {.tv_sec = SEND_TIMEOUT_S};
  if (strlen(options.socket) >= sizeof address.sun_path) refuse("the socket's path is too long");
  strcpy(address.sun_path, options.socket);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) fail(options.socket);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  return fd;
}

/* ---- threads that read, remove and write at once ---- */

static atomic_bool stopping;
static atomic_ulong reads_done, wrong_pages, exit_after_reads;

/* What a thread works on: some pages of one region, or of all that are plugged if `region` is NULL. `pause_us` follows each page changed. */
struct job {
  struct region *region;
  size_t from, count;
  uint64_t seed, pause_us;
};

static size_t plugged_pages(void) {
  size_t pages = 0;
  for (size_t i = 0; i < region_count; i++) pages += regions[i].plugged ? regions[i].pages : 0;
  return pages;
}

static struct region *random_page(struct job *job, size_t *page) {
  uint64_t chance = next_random(&job->seed);
  if (job->region != NULL) {
    *page = job->from + chance % job->count;
    return job->region;
  }
  size_t at = chance % plugged_pages();
  struct region *r = regions;
  for (; !r->plugged || at >= r->pages; r++) at -= r->plugged ? r->pages : 0;
  *page = at;
  return r;
}

static void *run_reader(void *arg) {
  struct job *job = arg;
  while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
    size_t page;
    struct region *r = random_page(job, &page);
    if (!page_is_right(r, page)) atomic_fetch_add(&wrong_pages, 1);
    if (atomic_fetch_add(&reads_done, 1) + 1 == atomic_load_explicit(&exit_after_reads, memory_order_relaxed)) _exit(0);
  }
  return NULL;
}

static void *run_writer(void *arg) {
  struct job *job = arg;
  for (; !atomic_load_explicit(&stopping, memory_order_relaxed); pause_us(job->pause_us)) {
    size_t page;
    struct region *r = random_page(job, &page);
    write_page(r, page, (unsigned char)next_random(&job->seed));
  }
  return NULL;
}

static void *run_remover(void *arg) {
  struct job *job = arg;
  while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
    size_t page;
    struct region *r = random_page(job, &page);
    size_t unit = r->page_bytes / PAGE_BYTES, count = unit > 1 ? unit : 1 + next_random(&job->seed) % STORM_REMOVED_PAGES_MAX;
    page -= page % unit;
    if (page + count > r->pages) count = r->pages - page;
    if (remove_pages(r, page, count)) atomic_fetch_add(&wrong_pages, 1);
    pause_us(job->pause_us * count);
  }
  return NULL;
}

static void *run_remove_once(void *arg) {
  struct job *job = arg;
  return (void *)(intptr_t)remove_pages(job->region, job->from, job->count);
}

static pthread_t start_thread(void *(*run)(void *), void *arg) {
  pthread_t thread;
  if ((errno = pthread_create(&thread, NULL, run, arg))) fail("pthread_create");
  return thread;
}

static void start_readers(pthread_t *threads, struct job *jobs, size_t count, struct job like) {
  atomic_store(&stopping, false);
  atomic_store(&reads_done, 0);
  atomic_store(&wrong_pages, 0);
  for (size_t i = 0; i < count; i++) {
    jobs[i] = like;
    jobs[i].seed = like.seed * THREADS_MAX + i;
    threads[i] = start_thread(run_reader, &jobs[i]);
  }
}

static void stop_threads(pthread_t *threads, size_t count) {
  atomic_store(&stopping, true);
  for (size_t i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

/* ---- commands: each returns what is wrong, or NULL when it has answered ---- */

/* A command's words, checked against its `takes`. Numbers that were left out are 0. */
struct words {
  struct region *region;
  size_t page, count;
  uint64_t number[4];
  const char *text[2];
};

static const char *do_read(const struct words *w) {
  const unsigned char *bytes = (const unsigned char *)w->region->base + w->page * PAGE_BYTES;
  char hex[33];
  for (int i = 0; i < 16; i++) sprintf(hex + 2 * i, "%02x", bytes[i]);
  uint64_t fnv1a = 0xcbf29ce484222325;
  for (size_t i = 0; i < PAGE_BYTES; i++) fnv1a = (fnv1a ^ bytes[i]) * 0x100000001b3;
  answer("{\"first\":\"%s\",\"fnv1a\":\"%016llx\",\"right\":%s}", hex, (unsigned long long)fnv1a,
         page_is_right(w->region, w->page) ? "true" : "false");
  return NULL;
}

struct tally {
  size_t pages, wrong, first_page;
  struct region *first;
};

static void check_pages(struct tally *tally, struct region *r, size_t from, size_t count) {
  for (size_t page = from; page < from + count; page++) {
    tally->pages++;
    if (page_is_right(r, page) || tally->wrong++ > 0) continue;
    tally->first = r;
    tally->first_page = page;
  }
}

static const char *answer_tally(const struct tally *t) {
  if (t->first == NULL) answer("{\"pages\":%zu,\"wrong\":0}", t->pages);
  else answer("{\"pages\":%zu,\"wrong\":%zu,\"first\":{\"region\":%td,\"page\":%zu}}", t->pages, t->wrong, t->first - regions, t->first_page);
  return NULL;
}

static const char *do_verify(const struct words *w) {
  struct tally tally = {0};
  check_pages(&tally, w->region, w->page, w->count);
  return answer_tally(&tally);
}

static const char *do_verify_all(const struct words *w) {
  (void)w;
  struct tally tally = {0};
  for (struct region *r = regions; r < regions + region_count; r++) check_pages(&tally, r, 0, r->plugged ? r->pages : 0);
  return answer_tally(&tally);
}

static const char *do_write(const struct words *w) {
  for (size_t i = 0; i < w->count; i++) write_page(w->region, w->page + i, (unsigned char)w->number[0]);
  answer("{\"written\":%zu}", w->count);
  return NULL;
}

static const char *do_remove(const struct words *w) {
  int error = remove_pages(w->region, w->page, w->count);
  if (error) return strerror(error);
  answer("{\"removed\":%zu}", w->count);
  return NULL;
}

/* The pages go away under readers of the very same pages. */
static const char *do_remove_thread(const struct words *w) {
  size_t readers = w->number[0];
  if (readers > THREADS_MAX) return "too many threads";
  pthread_t threads[THREADS_MAX];
  struct job jobs[THREADS_MAX], job = {.region = w->region, .from = w->page, .count = w->count, .seed = 1};
  start_readers(threads, jobs, readers, job);
  void *error;
  pthread_join(start_thread(run_remove_once, &job), &error);
  stop_threads(threads, readers);
  if (error != NULL) return strerror((int)(intptr_t)error);
  answer("{\"removed\":%zu,\"reads\":%lu,\"wrong\":%lu}", w->count, atomic_load(&reads_done), atomic_load(&wrong_pages));
  return NULL;
}

/* Readers as fast as they can; a thread that removes and one that writes, at such a pace that by the end each has met about two pages in three. */
static const char *do_storm(const struct words *w) {
  uint64_t seconds = w->number[0], readers = w->number[1], seed = w->number[2];
  size_t pages = plugged_pages();
  if (readers > THREADS_MAX - 2 || pages == 0 || seconds == 0) return "no such storm";
  pthread_t threads[THREADS_MAX];
  struct job jobs[THREADS_MAX], writer = {.seed = seed + 1, .pause_us = seconds * 1000000 / pages}, remover = writer;
  remover.seed++;
  start_readers(threads, jobs, readers, (struct job){.seed = seed + 3});
  threads[readers] = start_thread(run_writer, &writer);
  threads[readers + 1] = start_thread(run_remover, &remover);
  pause_us(seconds * 1000000);
  stop_threads(threads, readers + 2);
  answer("{\"reads\":%lu,\"wrong\":%lu}", atomic_load(&reads_done), atomic_load(&wrong_pages));
  return NULL;
}

/* One thread's share of a timed run: every `step`th of the pages, from `first` on. */
struct touch {
  const struct spot {
    struct region *region;
    size_t page;
  } *order;
  size_t first, step, count, wrong;
  uint64_t *nanos, pause_us;
  long faults;
};

/* Of this thread. A touch that waited for a server is one or two, minor or major, as the kernel's path has it; a page that is there is none. */
static long faults_taken(void) {
  struct rusage usage;
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

/* Nothing but touches while time is taken; what came is looked at afterwards. */
static void *run_touch(void *arg) {
  struct touch *touch = arg;
  for (size_t i = touch->first; i < touch->count; i += touch->step) {
    const volatile char *byte = touch->order[i].region->base + touch->order[i].page * PAGE_BYTES;
    if (touch->pause_us > 0) pause_us(touch->pause_us);
    long faults = faults_taken();
    uint64_t start = now_ns();
    (void)*byte;
    touch->nanos[i] = now_ns() - start;
    touch->faults += faults_taken() > faults;
  }
  for (size_t i = touch->first; i < touch->count; i += touch->step) {
    touch->wrong += !page_is_right(touch->order[i].region, touch->order[i].page);
  }
  return NULL;
}

/* All pages that this process has not yet touched, shuffled by `seed`. */
static struct spot *untouched_pages(uint64_t seed, size_t *count) {
  struct spot *spots = checked(malloc(plugged_pages() * sizeof *spots + 1));
  *count = 0;
  for (struct region *r = regions; r < regions + region_count; r++) {
    for (size_t page = 0; r->plugged && page < r->pages; page++) {
      if (!atomic_load_explicit(&r->touched[page], memory_order_relaxed)) spots[(*count)++] = (struct spot){r, page};
    }
  }
  for (size_t i = *count; i > 1; i--) {
    size_t other = next_random(&seed) % i;
    struct spot spot = spots[i - 1];
    spots[i - 1] = spots[other];
    spots[other] = spot;
  }
  return spots;
}

static int compare_nanos(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

/* The smallest of sorted times that at least `per_mille` of them do not exceed, in µs. */
static double quantile_us(const uint64_t *nanos, size_t count, size_t per_mille) {
  return (double)nanos[(count * per_mille + 999) / 1000 - 1] / 1000;
}

static const char *do_touch_random(const struct words *w) {
  size_t count, threads = w->number[2] == 0 ? 1 : w->number[2];
  if (threads > THREADS_MAX) return "too many threads";
  struct spot *order = untouched_pages(w->number[1], &count);
  if (count > w->number[0]) count = w->number[0];
  if (count == 0) {
    free(order);
    return "no page is untouched";
  }
  uint64_t *nanos = checked(calloc(count, sizeof *nanos));
  pthread_t running[THREADS_MAX];
  struct touch shares[THREADS_MAX], sum = {0};
  for (size_t i = 0; i < threads; i++) {
    shares[i] = (struct touch){.order = order, .first = i, .step = threads, .count = count, .nanos = nanos, .pause_us = w->number[3]};
    running[i] = start_thread(run_touch, &shares[i]);
  }
  for (size_t i = 0; i < threads; i++) {
    pthread_join(running[i], NULL);
    sum.wrong += shares[i].wrong;
    sum.faults += shares[i].faults;
  }
  qsort(nanos, count, sizeof *nanos, compare_nanos);
  answer("{\"touched\":%zu,\"faults\":%ld,\"wrong\":%zu,\"p50\":%.2f,\"p90\":%.2f,\"p99\":%.2f,\"p999\":%.2f,\"max\":%.2f}", count, sum.faults,
         sum.wrong, quantile_us(nanos, count, 500), quantile_us(nanos, count, 900), quantile_us(nanos, count, 990),
         quantile_us(nanos, count, 999), quantile_us(nanos, count, 1000));
  free(nanos);
  free(order);
  return NULL;
}

/* Marks the pages that a snapshot holds: those written, as with a log of dirty pages; those in memory, as Firecracker finds them without; or all. */
static bool mark_pages(struct region *r, const char *which, unsigned char *marks) {
  if (is(which, "resident")) return mincore(r->base, r->bytes, marks) == 0;
  for (size_t page = 0; page < r->pages; page++) marks[page] = is(which, "full") || (atomic_load(&r->shadow[page]) & WRITTEN);
  return is(which, "full") || is(which, "written");
}

static bool write_run(int fd, const struct region *r, size_t from, size_t to) {
  for (size_t at = from * PAGE_BYTES; at < to * PAGE_BYTES;) {
    ssize_t n = pwrite(fd, r->base + at, to * PAGE_BYTES - at, (off_t)(r->offset + at));
    if (n <= 0) return false;
    at += (size_t)n;
  }
  return true;
}

/* The plugged regions of a memory file: marked pages as data, each run in one piece, the others as holes. */
static const char *do_diff(const struct words *w) {
  int fd = open(w->text[0], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  size_t end = 0, pages = 0;
  for (size_t i = 0; i < region_count; i++) end = regions[i].offset + regions[i].bytes > end ? regions[i].offset + regions[i].bytes : end;
  bool good = fd >= 0 && ftruncate(fd, (off_t)end) == 0;
  for (struct region *r = regions; good && r < regions + region_count; r++) {
    if (!r->plugged) continue;
    unsigned char *marks = checked(malloc(r->pages));
    good = mark_pages(r, w->text[1], marks);
    for (size_t from = 0, to; good && from < r->pages; from = to) {
      for (to = from + 1; to < r->pages && (marks[to] & 1) == (marks[from] & 1);) to++;
      if (!(marks[from] & 1)) continue;
      good = write_run(fd, r, from, to);
      pages += to - from;
    }
    free(marks);
  }
  good = good && fsync(fd) == 0;
  if (fd >= 0) close(fd);
  if (!good) return "the file could not be written";
  answer("{\"pages\":%zu}", pages);
  return NULL;
}

static __thread sigjmp_buf *bus_exit;
static __thread volatile sig_atomic_t bus_code;

static void on_bus(int signal_number, siginfo_t *what, void *context) {
  (void)context;
  if (bus_exit == NULL) {
    /* Nobody expects it: the access is tried again when this returns, and then it kills. */
    signal(signal_number, SIG_DFL);
    return;
  }
  bus_code = what->si_code;
  siglongjmp(*bus_exit, 1);
}

static const char *do_expect_bus(const struct words *w) {
  sigjmp_buf here;
  bus_code = 0;
  bus_exit = &here;
  if (sigsetjmp(here, 1) == 0) (void)*(volatile char *)(w->region->base + w->page * PAGE_BYTES);
  bus_exit = NULL;
  answer("{\"bus\":%d}", (int)bus_code);
  return NULL;
}

static const char *do_poison(const struct words *w) {
  struct uffdio_poison poison = {.range = {(uintptr_t)w->region->base + w->page * PAGE_BYTES, w->region->page_bytes}};
  if (ioctl(uffd, UFFDIO_POISON, &poison)) return strerror(errno);
  answer("{\"poisoned\":%lld}", (long long)poison.updated);
  return NULL;
}

static const char *do_hang(const struct words *w) {
  answer("{\"hanging\":true}");
  (void)*(volatile char *)(w->region->base + w->page * PAGE_BYTES);
  return NULL;
}

static const char *do_die(const struct words *w) {
  pthread_t threads[THREADS_MAX];
  struct job jobs[THREADS_MAX];
  if (w->number[0] == 0 || w->number[1] == 0 || w->number[1] > THREADS_MAX || plugged_pages() == 0) return "no such death";
  atomic_store(&exit_after_reads, w->number[0]);
  start_readers(threads, jobs, w->number[1], (struct job){.seed = 1});
  for (;;) pause();
}

static const char *do_plug(const struct words *w) {
  if (mprotect(w->region->base, w->region->bytes, PROT_READ | PROT_WRITE)) return strerror(errno);
  w->region->plugged = true;
  answer("{\"plugged\":%zu}", w->region->pages);
  return NULL;
}

/* No VMM does this; with the events of it negotiated, a server that reads one is given a descriptor it did not ask for. */
static const char *do_fork(const struct words *w) {
  for (uint64_t i = 0; i < w->number[0]; i++) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    if (child < 0 || waitpid(child, NULL, 0) != child) return strerror(errno);
  }
  answer("{\"forked\":%llu}", (unsigned long long)w->number[0]);
  return NULL;
}

/* Nor this. Who touches the pages afterwards dies. */
static const char *do_unmap(const struct words *w) {
  if (munmap(w->region->base + w->page * PAGE_BYTES, w->count * PAGE_BYTES)) return strerror(errno);
  answer("{\"unmapped\":%zu}", w->count);
  return NULL;
}

static const char *do_close_socket(const struct words *w) {
  (void)w;
  for (unsigned i = 0; i < options.connections; i++) {
    if (sockets[i] >= 0) close(sockets[i]);
    sockets[i] = -1;
  }
  answer("{\"closed\":true}");
  return NULL;
}

/* Whether the server hangs up, on the last connection, within that many ms. */
/* The open file is shared with the server, which reads from it. */
static const char *do_block(const struct words *w) {
  (void)w;
  if (fcntl(uffd, F_SETFL, fcntl(uffd, F_GETFL) & ~O_NONBLOCK)) return strerror(errno);
  answer("{\"blocks\":true}");
  return NULL;
}

static const char *do_await_hangup(const struct words *w) {
  struct pollfd fd = {.fd = sockets[options.connections - 1], .events = POLLRDHUP};
  int ready = poll(&fd, 1, (int)w->number[0]);
  answer("{\"hangup\":%s}", ready > 0 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR)) ? "true" : "false");
  return NULL;
}

static const char *do_exit(const struct words *w) { exit((int)w->number[0]); }

/* `takes`, a letter a word: r region, p page in it, c count of pages from there, n number, t text; after ? they may be left out (c: 1, n: 0). */
static const struct command {
  const char *name, *takes;
  const char *(*run)(const struct words *w);
} COMMANDS[] = {
    {"read", "rp", do_read},
    {"verify", "rpc", do_verify},
    {"verify-all", "", do_verify_all},
    {"touch-random", "nnn?n", do_touch_random}, /* COUNT SEED THREADS [PAUSE_US]: pages not touched before; times in µs */
    {"write", "rpn?c", do_write},               /* REGION PAGE BYTE [COUNT]: over the first half of each page */
    {"remove", "rpc", do_remove},
    {"remove-thread", "rpcn", do_remove_thread}, /* REGION PAGE COUNT READERS */
    {"storm", "nn?n", do_storm},                 /* SECONDS READERS [SEED] */
    {"diff", "tt", do_diff},                     /* FILE written|resident|full */
    {"expect-bus", "rp", do_expect_bus},         /* the code of the SIGBUS, or 0 */
    {"poison", "rp", do_poison},                 /* as a server would */
    {"hang", "rp", do_hang},                     /* answers, then reads the page */
    {"die", "nn", do_die},                       /* READS THREADS: ends after that many reads, the others in their faults */
    {"plug", "r", do_plug},
    {"fork", "n", do_fork},
    {"unmap", "rpc", do_unmap},
    {"close-socket", "", do_close_socket},
    {"block", "", do_block},
    {"await-hangup", "n", do_await_hangup},
    {"exit", "?n", do_exit},
};

/* Whether `word` is what `kind` takes; then it is in `w`. */
static bool parse_word(char kind, const char *word, struct words *w, int *numbers, int *texts) {
  uint64_t value = 0;
  if (kind == 't') {
    w->text[(*texts)++] = word;
    return true;
  }
  if (!parse_number(word, &value)) return false;
  if (kind == 'n') w->number[(*numbers)++] = value;
  if (kind == 'r') w->region = &regions[value];
  if (kind == 'p') w->page = value;
  if (kind == 'c') w->count = value;
  if (kind == 'r') return value < region_count;
  if (kind == 'p') return value < w->region->pages;
  return kind != 'c' || (value > 0 && value <= w->region->pages - w->page);
}

static const char *run_command(char *line) {
  const char *name = strtok(line, " \n");
  const struct command *command = COMMANDS, *end = COMMANDS + sizeof COMMANDS / sizeof *COMMANDS;
  while (name != NULL && command < end && !is(name, command->name)) command++;
  if (name == NULL || command == end) return "no such command";
  struct words w = {.count = 1};
  int numbers = 0, texts = 0;
  bool optional = false;
  for (const char *kind = command->takes; *kind != '\0'; kind++) {
    if (*kind == '?') {
      optional = true;
      continue;
    }
    const char *word = strtok(NULL, " \n");
    if (word == NULL && optional) break;
    if (word == NULL || !parse_word(*kind, word, &w, &numbers, &texts)) return "a word that does not fit";
  }
  if (w.region != NULL && !w.region->plugged && command->run != do_plug) return "the region is not plugged";
  return command->run(&w);
}

/* ---- the start ---- */

/* SIZE@OFFSET[:PAGESIZE], all in bytes. */
static void add_region(const char *text, bool plugged) {
  unsigned long long bytes, offset, page_bytes = PAGE_BYTES;
  int parsed = sscanf(text, "%llu@%llu:%llu", &bytes, &offset, &page_bytes);
  bool good = parsed >= 2 && (page_bytes == PAGE_BYTES || page_bytes == HUGE_BYTES) && bytes > 0 && bytes % page_bytes == 0 && offset % PAGE_BYTES == 0;
  if (!good || region_count == REGIONS_MAX) refuse("--region SIZE@OFFSET[:PAGESIZE]: bytes, multiples of the page size, which is 4096 or 2097152");
  size_t pages = bytes / PAGE_BYTES;
  regions[region_count++] = (struct region){.bytes = bytes, .offset = offset, .page_bytes = page_bytes, .pages = pages, .plugged = plugged};
}

static void require_one_of(const char *option, const char *value, const char *const *names) {
  while (*names != NULL && !is(value, *names)) names++;
  if (*names == NULL) refuse(option);
}

static void check_options(void) {
  const char *lies[sizeof LIES / sizeof *LIES + 1] = {0};
  for (size_t i = 0; i < sizeof LIES / sizeof *LIES; i++) lies[i] = LIES[i].name;
  require_one_of("--lie", options.lie, lies);
  require_one_of("--fields", options.fields, (const char *const[]){"both", "page_size", "page_size_kib", NULL});
  require_one_of("--events", options.events, (const char *const[]){"remove", "none", "all", NULL});
  require_one_of("--delivery", options.delivery,
                 (const char *const[]){"whole", "split", "late-descriptor", "truncated", "oversized", "garbage", "empty", "not-array",
                                       "nonsense", "silent", NULL});
  if (options.socket == NULL || options.image == NULL || region_count == 0) refuse("--socket, --image and --region are needed");
  if (options.descriptors > DESCRIPTORS_MAX) refuse("--descriptors");
  if (options.connections < 1 || options.connections > CONNECTIONS_MAX) refuse("--connections");
}

static unsigned parse_count(const char *text) {
  uint64_t value;
  if (!parse_number(text, &value) || value > INT32_MAX) refuse(text);
  return (unsigned)value;
}

static void parse_options(int argc, char **argv) {
  const struct option known[] = {
      {"socket", required_argument, NULL, 's'},
      {"image", required_argument, NULL, 'i'},
      {"region", required_argument, NULL, 'r'},
      {"unplugged", required_argument, NULL, 'u'},   /* as --region: not accessible until `plug` */
      {"fields", required_argument, NULL, 'f'},      /* how the page size is spelt */
      {"extra-fields", no_argument, &options.extra_fields, 1},
      {"delivery", required_argument, NULL, 'd'},    /* how the message goes out */
      {"lie", required_argument, NULL, 'l'},         /* what is not true in it */
      {"descriptors", required_argument, NULL, 'n'}, /* the userfaultfd and others, or none */
      {"connections", required_argument, NULL, 'c'}, /* each with the same handshake */
      {"events", required_argument, NULL, 'e'},      /* which are negotiated */
      {"uid", required_argument, NULL, 'U'},         /* whose it is from before it connects, as in a jail */
      {"blocking", no_argument, &options.blocking, 1},
      {"unregistered", no_argument, &options.unregistered, 1},
      {"other-descriptor", no_argument, &options.other_descriptor, 1}, /* not the userfaultfd */
      {"forgetful", no_argument, &options.forgetful, 1},               /* closes the userfaultfd once it was sent: the server alone has it */
      {0},
  };
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    switch (option) {
      case 0: break;
      case 's': options.socket = optarg; break;
      case 'i': options.image = optarg; break;
      case 'r': add_region(optarg, true); break;
      case 'u': add_region(optarg, false); break;
      case 'f': options.fields = optarg; break;
      case 'd': options.delivery = optarg; break;
      case 'l': options.lie = optarg; break;
      case 'n': options.descriptors = parse_count(optarg); break;
      case 'c': options.connections = parse_count(optarg); break;
      case 'e': options.events = optarg; break;
      case 'U': options.uid = parse_count(optarg); break;
      default: exit(2);
    }
  }
}

static void become(long uid) {
  if (uid >= 0 && (setgroups(0, NULL) || setgid((gid_t)uid) || setuid((uid_t)uid))) fail("--uid");
  /* After the change of user, which clears it. */
  if (prctl(PR_SET_PDEATHSIG, SIGKILL)) fail("prctl");
}

int main(int argc, char **argv) {
  parse_options(argc, argv);
  check_options();
  struct sigaction bus = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
  if (sigaction(SIGBUS, &bus, NULL)) fail("sigaction");
  map_image(options.image);
  register_memory();
  become(options.uid);
  /* All before the first handshake: the socket goes away when that was taken. */
  for (unsigned i = 0; i < options.connections; i++) sockets[i] = connect_socket();
  for (unsigned i = 0; i < options.connections; i++) send_handshake(sockets[i]);
  if (options.forgetful) close(uffd);
  answer("{\"ready\":true}");
  char *line = NULL;
  size_t room = 0;
  while (getline(&line, &room, stdin) > 0) {
    const char *error = run_command(line);
    if (error != NULL) answer("{\"error\":\"%s\"}", error);
  }
  return 0;
}
