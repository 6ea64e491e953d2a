/* Memory that the system keeps out of the swap file and, where it can, out of core dumps. */
#ifndef SEALED_SESSION_LOCKED_MEMORY_H
#define SEALED_SESSION_LOCKED_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Pages of our own, zeroed; `*locked` says whether the system has locked them. NULL when there is no memory. */
void *locked_allocate(size_t size, bool *locked);

/* Wipes, unlocks and returns what locked_allocate() gave for `size`. */
void locked_free(void *memory, size_t size);

/*
 * Locks the pages of memory that somebody else allocated. Pages are counted: a page is unlocked with the last region in it.
 * Returns whether all of its pages are locked; unlock_region() is to be called either way.
 */
bool lock_region(const void *start, size_t size);
void unlock_region(const void *start, size_t size);

#endif
