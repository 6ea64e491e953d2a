/*
 * What JavaScript sees. Every argument is checked here, type and length, before a byte of it is touched; nothing of JavaScript runs between
 * the check and the use, so that no buffer can shrink or be detached in between.
 */
#include <limits.h>
#include <stdlib.h>

#include <node_api.h>
#include <openssl/crypto.h>
#include <openssl/opensslv.h>

#include "keys.h"

#if defined(__GLIBC__)
#include <gnu/libc-version.h>
#endif

_Static_assert(sizeof(void *) >= 8, "a handle travels as a pointer");

enum { MAX_ARGUMENTS = 8 };
/* OpenSSL takes lengths as int. */
static const size_t MAX_MESSAGE_BYTES = INT_MAX - TAG_BYTES;
/* V8 is told of memory in steps: a call costs more than a key. */
static const int64_t REPORT_BYTES = 65536;

/* The addon in one environment. It outlives that until the last key object was collected. */
typedef struct {
  key_table keys;
  int64_t reported_bytes;
  size_t objects;
  bool closed;
} addon;

/* --- Arguments --- */

static bool arguments(napi_env env, napi_callback_info info, size_t expected, napi_value *values, addon **self) {
  size_t count = MAX_ARGUMENTS;
  void *data = NULL;
  if (napi_get_cb_info(env, info, &count, values, NULL, &data) != napi_ok || data == NULL) return false;
  *self = data;
  if (count >= expected && !(*self)->closed) return true;
  napi_throw_type_error(env, NULL, "too few arguments");
  return false;
}

static bool bytes_argument(napi_env env, napi_value value, const char *message, span *out) {
  /* Types that this N-API does not know leave `type` as it is. */
  napi_typedarray_type type = napi_int8_array;
  void *data = NULL;
  size_t size = 0;
  if (napi_get_typedarray_info(env, value, &type, &size, &data, NULL, NULL) != napi_ok || type != napi_uint8_array) {
    napi_throw_type_error(env, NULL, message);
    return false;
  }
  /* A detached array has no memory and no length. */
  out->data = data;
  out->size = data == NULL ? 0 : size;
  return true;
}

static bool size_argument(napi_env env, napi_value value, const char *message, size_t *out) {
  double number;
  /* 2^53 and more cannot be told apart; no array is as long. */
  if (napi_get_value_double(env, value, &number) != napi_ok) {
    napi_throw_type_error(env, NULL, message);
    return false;
  }
  if (!(number >= 0 && number <= 9007199254740991.0) || number != (double)(size_t)number) {
    napi_throw_range_error(env, NULL, message);
    return false;
  }
  *out = (size_t)number;
  return true;
}

static bool range_ok(napi_env env, bool condition, const char *message) {
  if (!condition) napi_throw_range_error(env, NULL, message);
  return condition;
}

static bool key_argument(napi_env env, addon *self, napi_value value, key_slot **out) {
  void *handle = NULL;
  if (napi_get_value_external(env, value, &handle) != napi_ok) {
    napi_throw_type_error(env, NULL, "key must be a key");
    return false;
  }
  *out = key_find(&self->keys, (uint64_t)(uintptr_t)handle);
  if (*out == NULL) napi_throw_error(env, NULL, "this key was wiped");
  return *out != NULL;
}

static bool aes_key_argument(napi_env env, addon *self, napi_value value, key_slot **out) {
  return key_argument(env, self, value, out) && range_ok(env, (*out)->size == KEY_BYTES, "key must have 32 bytes");
}

static napi_value fail(napi_env env) {
  napi_throw_error(env, NULL, "the cipher failed");
  return NULL;
}

static napi_value boolean(napi_env env, bool value) {
  napi_value result = NULL;
  napi_get_boolean(env, value, &result);
  return result;
}

/* --- Keys --- */

static void report_memory(napi_env env, addon *self) {
  int64_t change = self->keys.bytes - self->reported_bytes, total;
  if (change < REPORT_BYTES && change > -REPORT_BYTES) return;
  if (napi_adjust_external_memory(env, change, &total) == napi_ok) self->reported_bytes += change;
}

static void release_addon(addon *self) {
  if (self->closed && self->objects == 0) free(self);
}

static void collected(napi_env env, void *handle, void *hint) {
  addon *self = hint;
  (void)env;
  if (!self->closed) key_release(&self->keys, (uint64_t)(uintptr_t)handle);
  self->objects--;
  release_addon(self);
}

static napi_value import_key(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS], object;
  addon *self;
  span bytes;
  if (!arguments(env, info, 1, values, &self) || !bytes_argument(env, values[0], "bytes must be a Uint8Array", &bytes) ||
      !range_ok(env, bytes.size <= MAX_KEY_BYTES, "a key must have at most 65536 bytes")) {
    return NULL;
  }
  uint64_t handle = key_import(&self->keys, bytes);
  if (handle == 0) {
    napi_throw_error(env, NULL, "there is no memory for another key");
    return NULL;
  }
  self->objects++;
  if (napi_create_external(env, (void *)(uintptr_t)handle, collected, self, &object) != napi_ok) {
    self->objects--;
    key_release(&self->keys, handle);
    return NULL;
  }
  report_memory(env, self);
  return object;
}

static napi_value release_key(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS];
  addon *self;
  void *handle = NULL;
  if (!arguments(env, info, 1, values, &self)) return NULL;
  if (napi_get_value_external(env, values[0], &handle) != napi_ok) {
    napi_throw_type_error(env, NULL, "key must be a key");
    return NULL;
  }
  key_release(&self->keys, (uint64_t)(uintptr_t)handle);
  report_memory(env, self);
  return NULL;
}

/* --- Messages --- */

static bool message_ok(napi_env env, span aad, span more_aad) {
  return range_ok(env, aad.size <= INT_MAX && more_aad.size <= INT_MAX, "additional data is too long");
}

static napi_value seal(napi_env env, addon *self, napi_value key, const uint8_t *nonce, span aad, span more_aad, span plaintext, uint8_t *out) {
  key_slot *slot;
  if (!aes_key_argument(env, self, key, &slot) || !message_ok(env, aad, more_aad)) return NULL;
  EVP_CIPHER_CTX *context = key_context(&self->keys, slot, true);
  if (context == NULL || !gcm_seal(context, nonce, aad, more_aad, plaintext, out)) return fail(env);
  return NULL;
}

static napi_value open(napi_env env, addon *self, napi_value key, const uint8_t *nonce, span aad, span more_aad, span sealed, uint8_t *out) {
  key_slot *slot;
  if (!aes_key_argument(env, self, key, &slot) || !message_ok(env, aad, more_aad)) return NULL;
  EVP_CIPHER_CTX *context = key_context(&self->keys, slot, false);
  open_result result = context == NULL ? FAILED : gcm_open(context, nonce, aad, more_aad, sealed, out);
  return result == FAILED ? fail(env) : boolean(env, result == OPENED);
}

/* sealGcm(key, nonce, aad, plaintext, out, offset) */
static napi_value seal_gcm(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS];
  addon *self;
  span nonce, aad, plaintext, out;
  size_t offset;
  if (!arguments(env, info, 6, values, &self) || !bytes_argument(env, values[1], "nonce must be a Uint8Array", &nonce) ||
      !bytes_argument(env, values[2], "aad must be a Uint8Array", &aad) ||
      !bytes_argument(env, values[3], "plaintext must be a Uint8Array", &plaintext) ||
      !bytes_argument(env, values[4], "out must be a Uint8Array", &out) ||
      !size_argument(env, values[5], "offset must be a length", &offset) ||
      !range_ok(env, nonce.size == NONCE_BYTES, "nonce must have 12 bytes") ||
      !range_ok(env, plaintext.size <= MAX_MESSAGE_BYTES, "plaintext is too long") ||
      !range_ok(env, offset <= out.size && out.size - offset >= plaintext.size + TAG_BYTES, "out is too short")) {
    return NULL;
  }
  return seal(env, self, values[0], nonce.data, aad, (span){0}, plaintext, (uint8_t *)out.data + offset);
}

/* openGcm(key, nonce, aad, sealed, out): whether the tag verified */
static napi_value open_gcm(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS];
  addon *self;
  span nonce, aad, sealed, out;
  if (!arguments(env, info, 5, values, &self) || !bytes_argument(env, values[1], "nonce must be a Uint8Array", &nonce) ||
      !bytes_argument(env, values[2], "aad must be a Uint8Array", &aad) ||
      !bytes_argument(env, values[3], "sealed must be a Uint8Array", &sealed) ||
      !bytes_argument(env, values[4], "out must be a Uint8Array", &out) ||
      !range_ok(env, nonce.size == NONCE_BYTES, "nonce must have 12 bytes") ||
      !range_ok(env, sealed.size >= TAG_BYTES && sealed.size <= INT_MAX, "sealed has no length of a message") ||
      !range_ok(env, out.size == sealed.size - TAG_BYTES, "out must have the length of the plaintext")) {
    return NULL;
  }
  return open(env, self, values[0], nonce.data, aad, (span){0}, sealed, (uint8_t *)out.data);
}

/* An envelope's header, with the nonce in it, and the first `context_size` bytes of `context` are what is authenticated (format 4.1). */
static bool framing(napi_env env, const napi_value *values, span *message, size_t *nonce_at, size_t *header_size, span *context) {
  size_t context_size;
  if (!bytes_argument(env, values[0], "envelope must be a Uint8Array", message) ||
      !size_argument(env, values[1], "nonceOffset must be a length", nonce_at) ||
      !size_argument(env, values[2], "headerLength must be a length", header_size) ||
      !bytes_argument(env, values[3], "context must be a Uint8Array", context) ||
      !size_argument(env, values[4], "contextLength must be a length", &context_size) ||
      !range_ok(env, *header_size <= message->size && message->size - *header_size >= TAG_BYTES, "envelope is too short") ||
      !range_ok(env, *nonce_at <= *header_size && *header_size - *nonce_at >= NONCE_BYTES, "the nonce is not in the header") ||
      !range_ok(env, context_size <= context->size, "context is too short")) {
    return false;
  }
  context->size = context_size;
  return true;
}

/* sealEnvelope(key, envelope, nonceOffset, headerLength, context, contextLength, plaintext) */
static napi_value seal_envelope(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS];
  addon *self;
  span envelope, context, plaintext;
  size_t nonce_at, header_size;
  if (!arguments(env, info, 7, values, &self) || !framing(env, values + 1, &envelope, &nonce_at, &header_size, &context) ||
      !bytes_argument(env, values[6], "plaintext must be a Uint8Array", &plaintext) ||
      !range_ok(env, plaintext.size <= MAX_MESSAGE_BYTES, "plaintext is too long") ||
      !range_ok(env, envelope.size - header_size == plaintext.size + TAG_BYTES, "envelope must end with the tag")) {
    return NULL;
  }
  return seal(env, self, values[0], envelope.data + nonce_at, (span){envelope.data, header_size}, context, plaintext,
              (uint8_t *)envelope.data + header_size);
}

/* openEnvelope(key, envelope, nonceOffset, headerLength, context, contextLength, out): whether the tag verified */
static napi_value open_envelope(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS];
  addon *self;
  span envelope, context, out;
  size_t nonce_at, header_size;
  if (!arguments(env, info, 7, values, &self) || !framing(env, values + 1, &envelope, &nonce_at, &header_size, &context) ||
      !bytes_argument(env, values[6], "out must be a Uint8Array", &out)) {
    return NULL;
  }
  span sealed = {envelope.data + header_size, envelope.size - header_size};
  if (!range_ok(env, sealed.size <= INT_MAX, "envelope is too long") ||
      !range_ok(env, out.size == sealed.size - TAG_BYTES, "out must have the length of the plaintext")) {
    return NULL;
  }
  return open(env, self, values[0], envelope.data + nonce_at, (span){envelope.data, header_size}, context, sealed, (uint8_t *)out.data);
}

/* --- Derivation --- */

/* aesBlocks(key, blocks, out) */
static napi_value aes_blocks_of(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS];
  addon *self;
  key_slot *slot;
  span blocks, out;
  if (!arguments(env, info, 3, values, &self) || !bytes_argument(env, values[1], "blocks must be a Uint8Array", &blocks) ||
      !bytes_argument(env, values[2], "out must be a Uint8Array", &out) ||
      !range_ok(env, blocks.size % BLOCK_BYTES == 0 && blocks.size <= MAX_MESSAGE_BYTES, "blocks must have 16 bytes each") ||
      !range_ok(env, out.size == blocks.size, "out must have the length of blocks") || !aes_key_argument(env, self, values[0], &slot)) {
    return NULL;
  }
  return aes_blocks(&self->keys.primitives, slot->bytes, blocks, (uint8_t *)out.data) ? NULL : fail(env);
}

/* hmacSha256(key, data, out) */
static napi_value hmac_sha256_of(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS];
  addon *self;
  key_slot *slot;
  span data, out;
  if (!arguments(env, info, 3, values, &self) || !bytes_argument(env, values[1], "data must be a Uint8Array", &data) ||
      !bytes_argument(env, values[2], "out must be a Uint8Array", &out) ||
      !range_ok(env, out.size == HASH_BYTES, "out must have 32 bytes") || !key_argument(env, self, values[0], &slot)) {
    return NULL;
  }
  return hmac_sha256(&self->keys.primitives, key_bytes(slot), data, (uint8_t *)out.data) ? NULL : fail(env);
}

/* hkdfSha256(key, salt, info, out) */
static napi_value hkdf_sha256_of(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS];
  addon *self;
  key_slot *slot;
  span salt, context, out;
  if (!arguments(env, info, 4, values, &self) || !bytes_argument(env, values[1], "salt must be a Uint8Array", &salt) ||
      !bytes_argument(env, values[2], "info must be a Uint8Array", &context) ||
      !bytes_argument(env, values[3], "out must be a Uint8Array", &out) ||
      !range_ok(env, out.size <= MAX_HKDF_BYTES, "HKDF-SHA256 gives at most 8160 bytes") || !key_argument(env, self, values[0], &slot)) {
    return NULL;
  }
  return hkdf_sha256(&self->keys.primitives, key_bytes(slot), salt, context, (uint8_t *)out.data, out.size) ? NULL : fail(env);
}

/* --- The module --- */

static bool set_number(napi_env env, napi_value object, const char *name, double value) {
  napi_value number;
  return napi_create_double(env, value, &number) == napi_ok && napi_set_named_property(env, object, name, number) == napi_ok;
}

/* status(): how many keys and contexts there are, and how much of what holds them is locked in memory */
static napi_value status(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGUMENTS], object;
  addon *self;
  if (!arguments(env, info, 0, values, &self) || napi_create_object(env, &object) != napi_ok) return NULL;
  const key_table *keys = &self->keys;
  if (!set_number(env, object, "keys", keys->keys) || !set_number(env, object, "contexts", keys->contexts) ||
      !set_number(env, object, "lockedContexts", keys->locked_contexts) || !set_number(env, object, "chunks", keys->chunk_count) ||
      !set_number(env, object, "lockedChunks", keys->locked_chunks)) {
    return NULL;
  }
  return object;
}

static void unload(napi_env env, void *data, void *hint) {
  addon *self = data;
  (void)env;
  (void)hint;
  keys_free(&self->keys);
  self->closed = true;
  release_addon(self);
}

NAPI_MODULE_INIT() {
#if defined(__GLIBC__)
  /* Another C library lacks this symbol, so that the loader goes on to the binary that was built for it. */
  if (gnu_get_libc_version() == NULL) return NULL;
#endif
  if (OPENSSL_version_major() != OPENSSL_VERSION_MAJOR) {
    napi_throw_error(env, NULL, "this Node has another major version of OpenSSL");
    return NULL;
  }
  addon *self = calloc(1, sizeof *self);
  if (self == NULL || napi_set_instance_data(env, self, unload, NULL) != napi_ok) {
    free(self);
    napi_throw_error(env, NULL, "the addon could not be set up");
    return NULL;
  }
  const napi_property_descriptor functions[] = {
      {"importKey", NULL, import_key, NULL, NULL, NULL, napi_enumerable, self},
      {"releaseKey", NULL, release_key, NULL, NULL, NULL, napi_enumerable, self},
      {"sealGcm", NULL, seal_gcm, NULL, NULL, NULL, napi_enumerable, self},
      {"openGcm", NULL, open_gcm, NULL, NULL, NULL, napi_enumerable, self},
      {"sealEnvelope", NULL, seal_envelope, NULL, NULL, NULL, napi_enumerable, self},
      {"openEnvelope", NULL, open_envelope, NULL, NULL, NULL, napi_enumerable, self},
      {"aesBlocks", NULL, aes_blocks_of, NULL, NULL, NULL, napi_enumerable, self},
      {"hmacSha256", NULL, hmac_sha256_of, NULL, NULL, NULL, napi_enumerable, self},
      {"hkdfSha256", NULL, hkdf_sha256_of, NULL, NULL, NULL, napi_enumerable, self},
      {"status", NULL, status, NULL, NULL, NULL, napi_enumerable, self},
  };
  if (napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions) != napi_ok) return NULL;
  return exports;
}
