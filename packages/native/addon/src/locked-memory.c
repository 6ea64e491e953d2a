#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "locked-memory.h"

#include <stdint.h>
#include <stdlib.h>

#include <openssl/crypto.h>

#ifdef _WIN32
#include <windows.h>
static SRWLOCK mutex = SRWLOCK_INIT;
#define ENTER() AcquireSRWLockExclusive(&mutex)
#define LEAVE() ReleaseSRWLockExclusive(&mutex)
#else
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
#define ENTER() pthread_mutex_lock(&mutex)
#define LEAVE() pthread_mutex_unlock(&mutex)
#endif

/* How many regions lie in a page. `number` is its address divided by the size of a page, 0 in an empty entry. */
typedef struct {
  uintptr_t number;
  uint32_t regions;
  bool locked;
} page_entry;

/* An open-addressed table of the pages, for the whole process: threads share pages of the allocator. */
static page_entry *pages = NULL;
static size_t capacity = 0; /* A power of two. */
static size_t used = 0;

static size_t page_size(void) {
#ifdef _WIN32
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  return info.dwPageSize;
#else
  long size = sysconf(_SC_PAGESIZE);
  return size > 0 ? (size_t)size : 4096;
#endif
}

static bool lock_pages(void *start, size_t size) {
#ifdef _WIN32
  return VirtualLock(start, size) != 0;
#else
  return mlock(start, size) == 0;
#endif
}

static void unlock_pages(void *start, size_t size) {
#ifdef _WIN32
  VirtualUnlock(start, size);
#else
  munlock(start, size);
#endif
}

void *locked_allocate(size_t size, bool *locked) {
#ifdef _WIN32
  void *memory = VirtualAlloc(NULL, size, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
  if (memory == NULL) return NULL;
#else
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return NULL;
#ifdef MADV_DONTDUMP
  madvise(memory, size, MADV_DONTDUMP);
#endif
#endif
  *locked = lock_pages(memory, size);
  return memory;
}

void locked_free(void *memory, size_t size) {
  if (memory == NULL) return;
  OPENSSL_cleanse(memory, size);
  /* Unmapping unlocks. */
#ifdef _WIN32
  VirtualFree(memory, 0, MEM_RELEASE);
#else
  munmap(memory, size);
#endif
}

static size_t place_of(uintptr_t number) { return (size_t)(number * (uintptr_t)0x9E3779B97F4A7C15u >> 20) & (capacity - 1); }

/* The entry of a page, or the empty one where it belongs. */
static page_entry *find(uintptr_t number) {
  size_t at = place_of(number);
  while (pages[at].number != 0 && pages[at].number != number) at = (at + 1) & (capacity - 1);
  return &pages[at];
}

static bool grow(void) {
  size_t old_capacity = capacity;
  page_entry *old = pages;
  size_t new_capacity = capacity == 0 ? 64 : capacity * 2;
  page_entry *grown = calloc(new_capacity, sizeof *grown);
  if (grown == NULL) return false;
  pages = grown;
  capacity = new_capacity;
  for (size_t i = 0; i < old_capacity; i++) {
    if (old[i].number != 0) *find(old[i].number) = old[i];
  }
  free(old);
  return true;
}

/* Linear probing without tombstones: entries that follow move up where the gap would hide them. */
static void erase(page_entry *entry) {
  size_t gap = (size_t)(entry - pages);
  size_t at = gap;
  for (;;) {
    at = (at + 1) & (capacity - 1);
    if (pages[at].number == 0) break;
    size_t home = place_of(pages[at].number);
    if (((at - home) & (capacity - 1)) < ((at - gap) & (capacity - 1))) continue;
    pages[gap] = pages[at];
    gap = at;
  }
  pages[gap].number = 0;
  used--;
  if (used > 0) return;
  /* With the last key nothing is left, so that unloading the addon leaks nothing. */
  free(pages);
  pages = NULL;
  capacity = 0;
}

static bool enter_page(uintptr_t number, size_t size) {
  if (used * 2 >= capacity && !grow()) return false;
  page_entry *entry = find(number);
  if (entry->number == 0) {
    entry->number = number;
    entry->regions = 0;
    entry->locked = lock_pages((void *)(number * size), size);
    used++;
  }
  entry->regions++;
  return entry->locked;
}

static void leave_page(uintptr_t number, size_t size) {
  if (capacity == 0) return;
  page_entry *entry = find(number);
  if (entry->number == 0 || --entry->regions > 0) return;
  if (entry->locked) unlock_pages((void *)(number * size), size);
  erase(entry);
}

bool lock_region(const void *start, size_t size) {
  size_t page = page_size();
  bool locked = true;
  ENTER();
  for (uintptr_t at = (uintptr_t)start / page; at <= ((uintptr_t)start + size - 1) / page; at++) {
    if (!enter_page(at, page)) locked = false;
  }
  LEAVE();
  return locked;
}

void unlock_region(const void *start, size_t size) {
  size_t page = page_size();
  ENTER();
  for (uintptr_t at = (uintptr_t)start / page; at <= ((uintptr_t)start + size - 1) / page; at++) leave_page(at, page);
  LEAVE();
}
