/* AES-256-GCM, AES-256, HMAC-SHA256 and HKDF-SHA256 on the OpenSSL that the node binary brings. Lengths were checked by the caller. */
#ifndef SEALED_SESSION_PRIMITIVES_H
#define SEALED_SESSION_PRIMITIVES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

enum { KEY_BYTES = 32, NONCE_BYTES = 12, TAG_BYTES = 16, BLOCK_BYTES = 16, HASH_BYTES = 32, MAX_HKDF_BYTES = 255 * 32 };

/* A context of AES-256-GCM for one direction, and whether it lies in locked memory. `evp` is NULL when there is none. */
typedef struct {
  EVP_CIPHER_CTX *evp;
  bool locked;
} gcm_context;

/* How many contexts without a key are kept for the next one. */
enum { MAX_SPARE = 16 };

/* Algorithms fetched once for each thread, and anew when FIPS mode is switched. */
typedef struct {
  EVP_CIPHER *gcm;
  /* For one use at a time, under a key of zeros in between: no key schedule stays behind. */
  EVP_CIPHER_CTX *ecb;
  EVP_MAC_CTX *hmac;
  gcm_context spare[MAX_SPARE];
  size_t spare_count;
  bool fips;
  bool ready;
} primitives;

typedef struct {
  const uint8_t *data;
  size_t size;
} span;

void primitives_free(primitives *self);

/* A context with the key schedule set. */
gcm_context gcm_new(primitives *self, const uint8_t key[KEY_BYTES], bool seals);
/* Wipes the key schedule; the context is kept for the next key, or freed. */
void gcm_release(primitives *self, gcm_context context);

/*
 * Writes plaintext.size + TAG_BYTES to `out`, which may overlap with anything: all of `nonce`, the additional data (two pieces)
 * and the plaintext is taken before it is overwritten. Leaves zeros there when it fails.
 */
bool gcm_seal(EVP_CIPHER_CTX *context, const uint8_t nonce[NONCE_BYTES], span aad, span more_aad, span plaintext, uint8_t *out);

typedef enum { OPENED, NOT_AUTHENTIC, FAILED } open_result;
/* Writes sealed.size - TAG_BYTES to `out`, under the same rules; zeros unless OPENED. */
open_result gcm_open(EVP_CIPHER_CTX *context, const uint8_t nonce[NONCE_BYTES], span aad, span more_aad, span sealed, uint8_t *out);

/* Each block of 16 bytes on its own. */
bool aes_blocks(primitives *self, const uint8_t key[KEY_BYTES], span blocks, uint8_t *out);
bool hmac_sha256(primitives *self, span key, span data, uint8_t out[HASH_BYTES]);
bool hkdf_sha256(primitives *self, span key, span salt, span info, uint8_t *out, size_t size);

#endif
