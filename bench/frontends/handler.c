/*
 * The peer of the benchmark of userfaultfd: a plain page-fault handler for one VMM, a process that blocks, as Firecracker's example is one (on_demand_handler
 * in its examples/uffd: facts only, nothing taken). It polls, reads one event, and copies that page from a local image that it has mapped.
 *
 *   handler SOCKET IMAGE [--page-cache]
 *
 * Prints `listening` once a VMM can connect. Ends with 0 when the VMM hangs up, with 1 when something is not as it must be. With `--page-cache` the whole image is
 * in memory and in this process's page tables before it listens, so that no fault of its own is in what is measured.
 *
 * It is a correct handler, for it also stands in for a server in tests. While a removal is pending the kernel refuses copies (EAGAIN): then all events
 * are read, removals first, before a fault is tried again. A removed page is zero ever after: whoever has touched it since does not fault on it.
 *
 * It deliberately trusts its VMM: the handshake is one message, and is right.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REGIONS_MAX 16
#define HANDSHAKE_BYTES_MAX 8192
#define HUGE_BYTES ((size_t)2 << 20)
#define DEFERRED_MAX 256 /* faults that wait for a removal: one a thread of the VMM */

struct region {
  uint64_t base, bytes, offset, page_bytes;
  bool *removed; /* one a page */
};

static struct region regions[REGIONS_MAX];
static size_t region_count;
static int uffd = -1;
static char *image;
static size_t image_bytes;
static char *zeroes; /* a huge page of them: ZEROPAGE does not work there */
static uint64_t deferred[DEFERRED_MAX];
static size_t deferred_count;

static void fail(const char *what) {
  fprintf(stderr, "handler: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void *map(size_t bytes, int flags, int fd) {
  void *at = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | flags, fd, 0);
  if (at == MAP_FAILED) fail("mmap");
  return at;
}

static void map_image(const char *path, bool populated) {
  struct stat stat;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &stat)) fail(path);
  image_bytes = (size_t)stat.st_size;
  image = map(image_bytes, populated ? MAP_POPULATE : 0, fd);
  close(fd);
}

static int listen_at(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    fail(path);
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1)) fail(path);
  puts("listening");
  fflush(stdout);
  return fd;
}

/* The number after `"name":` at or after `text`; `fail` if there is none. */
static uint64_t number_of(const char *text, const char *name) {
  const char *found = strstr(text, name);
  if (found == NULL) {
    errno = EPROTO;
    fail(name);
  }
  return strtoull(found + strlen(name), NULL, 10);
}

static void add_region(const char *text) {
  struct region r = {number_of(text, "\"base_host_virt_addr\":"), number_of(text, "\"size\":"), number_of(text, "\"offset\":"), 0, NULL};
  /* It holds bytes, whatever its name says; versions of Firecracker that send no `page_size` are no peers here. */
  r.page_bytes = number_of(text, "\"page_size\":");
  errno = EPROTO;
  if (region_count == REGIONS_MAX || r.page_bytes == 0 || r.offset + r.bytes > image_bytes) fail("a region");
  r.removed = calloc(r.bytes / r.page_bytes, sizeof *r.removed);
  if (r.removed == NULL) fail("memory");
  regions[region_count++] = r;
}

static void receive_handshake(int connection) {
  static char text[HANDSHAKE_BYTES_MAX + 1];
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  struct iovec part = {text, HANDSHAKE_BYTES_MAX};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  if (recvmsg(connection, &message, MSG_CMSG_CLOEXEC) <= 0) fail("handshake");
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  errno = EPROTO;
  if (header == NULL || header->cmsg_type != SCM_RIGHTS) fail("no descriptor");
  memcpy(&uffd, CMSG_DATA(header), sizeof uffd);
  for (const char *at = text; (at = strstr(at, "{\"base_host_virt_addr\":")) != NULL; at++) add_region(at);
}

static struct region *region_at(uint64_t address) {
  for (struct region *r = regions; r < regions + region_count; r++) {
    if (address - r->base < r->bytes) return r;
  }
  errno = EFAULT;
  fail("a fault outside of all regions");
  return NULL;
}

static int copy(uint64_t to, const char *from, uint64_t bytes) {
  struct uffdio_copy copy = {.dst = to, .src = (uintptr_t)from, .len = bytes};
  return ioctl(uffd, UFFDIO_COPY, &copy);
}

static int put_zeroes(uint64_t to, uint64_t bytes) {
  struct uffdio_zeropage zero = {.range = {to, bytes}};
  return bytes == HUGE_BYTES ? copy(to, zeroes, bytes) : ioctl(uffd, UFFDIO_ZEROPAGE, &zero);
}

/*
 * Whether the fault is done with; if not, a removal is pending. A page that is there already (EEXIST) only needs its thread woken; when the VMM is gone
 * (ESRCH) nobody waits.
 */
static bool serve_fault(uint64_t address) {
  struct region *r = region_at(address);
  uint64_t page = (address - r->base) / r->page_bytes, at = page * r->page_bytes;
  int failed = r->removed[page] ? put_zeroes(r->base + at, r->page_bytes) : copy(r->base + at, image + r->offset + at, r->page_bytes);
  if (!failed) return true;
  if (errno == EAGAIN) return false;
  if (errno == ESRCH) return true;
  struct uffdio_range range = {r->base + at, r->page_bytes};
  if (errno != EEXIST || ioctl(uffd, UFFDIO_WAKE, &range)) fail("UFFDIO_COPY");
  return true;
}

static void mark_removed(uint64_t start, uint64_t end) {
  struct region *r = region_at(start);
  for (uint64_t at = start; at < end; at += r->page_bytes) r->removed[(at - r->base) / r->page_bytes] = true;
}

/* Reads one event, if there is one. Faults are deferred, removals marked. */
static bool read_event(void) {
  struct uffd_msg event;
  ssize_t size = read(uffd, &event, sizeof event);
  if (size < 0 && errno == EAGAIN) return false;
  if (size != sizeof event) fail("read of an event");
  if (event.event == UFFD_EVENT_REMOVE) {
    mark_removed(event.arg.remove.start, event.arg.remove.end);
  } else if (event.event == UFFD_EVENT_PAGEFAULT && deferred_count < DEFERRED_MAX) {
    deferred[deferred_count++] = event.arg.pagefault.address;
  } else {
    errno = EPROTO;
    fail("an event");
  }
  return true;
}

/* One event as a rule; after a refused copy all there are, until nothing is left to do. */
static void handle_events(void) {
  read_event();
  while (deferred_count > 0) {
    if (serve_fault(deferred[deferred_count - 1])) deferred_count--;
    else while (read_event()) continue;
  }
}

int main(int argc, char **argv) {
  bool populated = argc == 4 && strcmp(argv[3], "--page-cache") == 0;
  if (argc != 3 && !populated) {
    fprintf(stderr, "usage: handler SOCKET IMAGE [--page-cache]\n");
    return 2;
  }
  map_image(argv[2], populated);
  zeroes = map(HUGE_BYTES, MAP_ANONYMOUS, -1);
  int connection = accept4(listen_at(argv[1]), NULL, NULL, SOCK_CLOEXEC);
  if (connection < 0) fail("accept");
  receive_handshake(connection);
  struct pollfd fds[] = {{.fd = uffd, .events = POLLIN}, {.fd = connection, .events = POLLRDHUP}};
  for (;;) {
    if (poll(fds, 2, -1) < 0) fail("poll");
    if (fds[1].revents) return 0;
    if (fds[0].revents & POLLIN) handle_events();
  }
}
