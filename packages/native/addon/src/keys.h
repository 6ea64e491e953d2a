/*
 * The keys of one thread (one N-API environment). JavaScript holds numbers, never addresses: a slot and its generation, so that whatever
 * comes in is either a key that lives or none.
 */
#ifndef SEALED_SESSION_KEYS_H
#define SEALED_SESSION_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "primitives.h"

/* Longest key that is no AES key, for HMAC and HKDF. */
enum { MAX_KEY_BYTES = 65536 };

typedef struct {
  uint8_t bytes[KEY_BYTES];
  /* Keys of another length are in pages of their own; only HMAC and HKDF take them. */
  uint8_t *elsewhere;
  gcm_context seals;
  gcm_context opens;
  uint32_t size;
  uint32_t generation;
  uint32_t next_free;
  bool used;
  bool elsewhere_locked;
} key_slot;

typedef struct {
  key_slot **chunks;
  uint32_t chunk_count;
  uint32_t locked_chunks;
  uint32_t free_slot;
  uint32_t keys;
  uint32_t contexts;
  uint32_t locked_contexts;
  /* Bytes outside the JavaScript heap that belong to keys. */
  int64_t bytes;
  primitives primitives;
} key_table;

/* Returns a handle, 0 when there is no memory. */
uint64_t key_import(key_table *table, span bytes);
/* Returns NULL when the handle is of no key that lives. */
key_slot *key_find(key_table *table, uint64_t handle);
/* Wipes and forgets; a handle that is of no key is ignored. */
void key_release(key_table *table, uint64_t handle);
span key_bytes(const key_slot *slot);

/* The context for one direction, made at its first use; NULL when OpenSSL refuses or there is no memory. The key has KEY_BYTES. */
EVP_CIPHER_CTX *key_context(key_table *table, key_slot *slot, bool seals);

/* Wipes all keys and gives everything back. */
void keys_free(key_table *table);

#endif
