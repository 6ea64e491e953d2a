#include "keys.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "locked-memory.h"

enum { SLOT_BITS = 24, CHUNK_BYTES = 16384, CONTEXT_ESTIMATE_BYTES = 1280 };
static const uint32_t NO_SLOT = UINT32_MAX;
static const uint32_t SLOTS_PER_CHUNK = CHUNK_BYTES / sizeof(key_slot);
static const uint32_t MAX_SLOTS = 1u << SLOT_BITS;

static key_slot *slot_at(key_table *table, uint32_t index) {
  return &table->chunks[index / SLOTS_PER_CHUNK][index % SLOTS_PER_CHUNK];
}

static bool add_chunk(key_table *table) {
  uint32_t first = table->chunk_count * SLOTS_PER_CHUNK;
  if (first + SLOTS_PER_CHUNK > MAX_SLOTS) return false;
  key_slot **chunks = realloc(table->chunks, (table->chunk_count + 1) * sizeof *chunks);
  if (chunks == NULL) return false;
  table->chunks = chunks;
  bool locked;
  key_slot *chunk = locked_allocate(CHUNK_BYTES, &locked);
  if (chunk == NULL) return false;
  chunks[table->chunk_count++] = chunk;
  if (locked) table->locked_chunks++;
  for (uint32_t i = 0; i < SLOTS_PER_CHUNK; i++) {
    chunk[i].generation = 1;
    chunk[i].next_free = i + 1 < SLOTS_PER_CHUNK ? first + i + 1 : NO_SLOT;
  }
  table->free_slot = first;
  return true;
}

uint64_t key_import(key_table *table, span bytes) {
  if (bytes.size > MAX_KEY_BYTES) return 0;
  if (table->chunk_count == 0) table->free_slot = NO_SLOT;
  if (table->free_slot == NO_SLOT && !add_chunk(table)) return 0;
  uint32_t index = table->free_slot;
  key_slot *slot = slot_at(table, index);
  if (bytes.size == KEY_BYTES) {
    memcpy(slot->bytes, bytes.data, KEY_BYTES);
  } else if (bytes.size > 0) {
    slot->elsewhere = locked_allocate(bytes.size, &slot->elsewhere_locked);
    if (slot->elsewhere == NULL) return 0;
    memcpy(slot->elsewhere, bytes.data, bytes.size);
    table->bytes += (int64_t)bytes.size;
  }
  slot->size = (uint32_t)bytes.size;
  slot->used = true;
  table->free_slot = slot->next_free;
  table->keys++;
  table->bytes += (int64_t)sizeof *slot;
  return (uint64_t)slot->generation << SLOT_BITS | index;
}

key_slot *key_find(key_table *table, uint64_t handle) {
  uint32_t index = (uint32_t)(handle & (MAX_SLOTS - 1));
  if (index >= table->chunk_count * SLOTS_PER_CHUNK) return NULL;
  key_slot *slot = slot_at(table, index);
  return slot->used && slot->generation == handle >> SLOT_BITS ? slot : NULL;
}

static void release_context(key_table *table, gcm_context context) {
  if (context.evp == NULL) return;
  gcm_release(&table->primitives, context);
  table->contexts--;
  if (context.locked) table->locked_contexts--;
  table->bytes -= CONTEXT_ESTIMATE_BYTES;
}

static void wipe(key_table *table, key_slot *slot) {
  release_context(table, slot->seals);
  release_context(table, slot->opens);
  if (slot->elsewhere != NULL) {
    locked_free(slot->elsewhere, slot->size);
    table->bytes -= slot->size;
  }
  uint32_t generation = slot->generation;
  OPENSSL_cleanse(slot, sizeof *slot);
  /* A handle of this slot that is still about never fits again. */
  slot->generation = generation == UINT32_MAX ? 1 : generation + 1;
  table->keys--;
  table->bytes -= (int64_t)sizeof *slot;
}

void key_release(key_table *table, uint64_t handle) {
  key_slot *slot = key_find(table, handle);
  if (slot == NULL) return;
  wipe(table, slot);
  slot->next_free = table->free_slot;
  table->free_slot = (uint32_t)(handle & (MAX_SLOTS - 1));
}

span key_bytes(const key_slot *slot) {
  return (span){slot->elsewhere == NULL ? slot->bytes : slot->elsewhere, slot->size};
}

EVP_CIPHER_CTX *key_context(key_table *table, key_slot *slot, bool seals) {
  gcm_context *context = seals ? &slot->seals : &slot->opens;
  if (context->evp != NULL) return context->evp;
  *context = gcm_new(&table->primitives, slot->bytes, seals);
  if (context->evp == NULL) return NULL;
  table->contexts++;
  if (context->locked) table->locked_contexts++;
  table->bytes += CONTEXT_ESTIMATE_BYTES;
  return context->evp;
}

void keys_free(key_table *table) {
  for (uint32_t i = 0; i < table->chunk_count * SLOTS_PER_CHUNK; i++) {
    key_slot *slot = slot_at(table, i);
    if (slot->used) wipe(table, slot);
  }
  for (uint32_t i = 0; i < table->chunk_count; i++) locked_free(table->chunks[i], CHUNK_BYTES);
  free(table->chunks);
  primitives_free(&table->primitives);
  memset(table, 0, sizeof *table);
}
