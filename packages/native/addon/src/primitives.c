#include "primitives.h"

#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/params.h>

#include "locked-memory.h"

/*
 * What lies around the IV in a provider's context: the fields before it, and the key schedule and tables after it. OpenSSL 3 needs less than
 * 900 bytes; whole pages are locked in any case.
 */
enum { BEFORE_IV_BYTES = 256, CONTEXT_BYTES = 1536 };

static const uint8_t ZEROS[HASH_BYTES];

/* Whatever OpenSSL noted about a failure is not for the next caller of node:crypto. */
static bool failed(void) {
  ERR_clear_error();
  return false;
}

static bool rekey_ecb(EVP_CIPHER_CTX *context, const uint8_t *key) {
  return EVP_EncryptInit_ex2(context, NULL, key, NULL, NULL) == 1;
}

static bool fetch_ecb(primitives *self) {
  EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
  self->ecb = EVP_CIPHER_CTX_new();
  bool ok = cipher != NULL && self->ecb != NULL && EVP_EncryptInit_ex2(self->ecb, cipher, ZEROS, NULL, NULL) == 1 &&
            EVP_CIPHER_CTX_set_padding(self->ecb, 0) == 1;
  EVP_CIPHER_free(cipher);
  return ok;
}

static bool fetch_hmac(primitives *self) {
  char digest[] = "SHA256";
  OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0), OSSL_PARAM_construct_end()};
  EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
  self->hmac = mac == NULL ? NULL : EVP_MAC_CTX_new(mac);
  EVP_MAC_free(mac);
  return self->hmac != NULL && EVP_MAC_init(self->hmac, ZEROS, sizeof ZEROS, params) == 1;
}

/* Where the provider's own context lies: `iv` may be asked for as a pointer (EVP_EncryptInit(3)), and that points into it. */
static const uint8_t *context_memory(EVP_CIPHER_CTX *context) {
  void *iv = NULL;
  OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_ptr(OSSL_CIPHER_PARAM_IV, &iv, NONCE_BYTES), OSSL_PARAM_construct_end()};
  if (EVP_CIPHER_CTX_get_params(context, params) != 1) iv = NULL;
  ERR_clear_error();
  return iv == NULL ? NULL : (const uint8_t *)iv - BEFORE_IV_BYTES;
}

static void gcm_free(EVP_CIPHER_CTX *evp) {
  if (evp == NULL) return;
  const uint8_t *memory = context_memory(evp);
  /* Providers clear what they free. */
  EVP_CIPHER_CTX_free(evp);
  if (memory != NULL) unlock_region(memory, CONTEXT_BYTES);
}

void primitives_free(primitives *self) {
  while (self->spare_count > 0) gcm_free(self->spare[--self->spare_count].evp);
  EVP_CIPHER_free(self->gcm);
  EVP_CIPHER_CTX_free(self->ecb);
  EVP_MAC_CTX_free(self->hmac);
  memset(self, 0, sizeof *self);
}

static bool ready(primitives *self) {
  bool fips = EVP_default_properties_is_fips_enabled(NULL) == 1;
  if (self->ready && self->fips == fips) return true;
  primitives_free(self);
  self->fips = fips;
  self->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
  self->ready = self->gcm != NULL && fetch_ecb(self) && fetch_hmac(self);
  return self->ready ? true : failed();
}

static gcm_context gcm_without_key(primitives *self) {
  gcm_context context = {EVP_CIPHER_CTX_new(), false};
  if (context.evp == NULL) return context;
  if (EVP_CipherInit_ex2(context.evp, self->gcm, NULL, ZEROS, 1, NULL) != 1) {
    EVP_CIPHER_CTX_free(context.evp);
    context.evp = NULL;
    return context;
  }
  /* Locked before there is a key in it. */
  const uint8_t *memory = context_memory(context.evp);
  if (memory != NULL) context.locked = lock_region(memory, CONTEXT_BYTES);
  return context;
}

gcm_context gcm_new(primitives *self, const uint8_t key[KEY_BYTES], bool seals) {
  gcm_context context = {NULL, false};
  if (!ready(self)) return context;
  context = self->spare_count > 0 ? self->spare[--self->spare_count] : gcm_without_key(self);
  if (context.evp != NULL && EVP_CipherInit_ex2(context.evp, NULL, key, ZEROS, seals, NULL) != 1) {
    gcm_free(context.evp);
    context.evp = NULL;
  }
  if (context.evp == NULL) failed();
  return context;
}

void gcm_release(primitives *self, gcm_context context) {
  if (context.evp == NULL) return;
  /* Another key takes the place of the schedule and of its tables. One that was made before FIPS mode was switched is not kept. */
  bool kept = self->spare_count < MAX_SPARE && EVP_CIPHER_CTX_get0_cipher(context.evp) == self->gcm &&
              EVP_CipherInit_ex2(context.evp, NULL, ZEROS, ZEROS, 1, NULL) == 1;
  if (kept) self->spare[self->spare_count++] = context;
  else gcm_free(context.evp);
}

static bool authenticate(EVP_CIPHER_CTX *context, span aad) {
  int written;
  return aad.size == 0 || EVP_CipherUpdate(context, NULL, &written, aad.data, (int)aad.size) == 1;
}

/* Moves first, so that input and output may overlap in any way; then works in place. */
static bool transform(EVP_CIPHER_CTX *context, span in, uint8_t *out) {
  int written;
  if (in.size == 0) return true;
  if (in.data != out) {
    /* Where nothing overlaps no move is needed, and the message is read once. */
    if ((uintptr_t)in.data < (uintptr_t)out + in.size && (uintptr_t)out < (uintptr_t)in.data + in.size) {
      memmove(out, in.data, in.size);
      in.data = out;
    }
  }
  return EVP_CipherUpdate(context, out, &written, in.data, (int)in.size) == 1 && (size_t)written == in.size;
}

bool gcm_seal(EVP_CIPHER_CTX *context, const uint8_t nonce[NONCE_BYTES], span aad, span more_aad, span plaintext, uint8_t *out) {
  uint8_t last[BLOCK_BYTES], tag[TAG_BYTES];
  int written;
  OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, tag, TAG_BYTES), OSSL_PARAM_construct_end()};
  if (EVP_EncryptInit_ex2(context, NULL, NULL, nonce, NULL) == 1 && authenticate(context, aad) && authenticate(context, more_aad) &&
      transform(context, plaintext, out) && EVP_EncryptFinal_ex(context, last, &written) == 1 &&
      EVP_CIPHER_CTX_get_params(context, params) == 1) {
    memcpy(out + plaintext.size, tag, TAG_BYTES);
    return true;
  }
  OPENSSL_cleanse(out, plaintext.size + TAG_BYTES);
  return failed();
}

open_result gcm_open(EVP_CIPHER_CTX *context, const uint8_t nonce[NONCE_BYTES], span aad, span more_aad, span sealed, uint8_t *out) {
  uint8_t last[BLOCK_BYTES], tag[TAG_BYTES];
  int written;
  span ciphertext = {sealed.data, sealed.size - TAG_BYTES};
  memcpy(tag, sealed.data + ciphertext.size, TAG_BYTES);
  OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, tag, TAG_BYTES), OSSL_PARAM_construct_end()};
  open_result result = FAILED;
  if (EVP_DecryptInit_ex2(context, NULL, NULL, nonce, params) == 1 && authenticate(context, aad) && authenticate(context, more_aad) &&
      transform(context, ciphertext, out)) {
    if (EVP_DecryptFinal_ex(context, last, &written) == 1) return OPENED;
    result = NOT_AUTHENTIC;
  }
  if (ciphertext.size > 0) OPENSSL_cleanse(out, ciphertext.size);
  failed();
  return result;
}

bool aes_blocks(primitives *self, const uint8_t key[KEY_BYTES], span blocks, uint8_t *out) {
  if (!ready(self)) return false;
  bool ok = rekey_ecb(self->ecb, key) && transform(self->ecb, blocks, out);
  if (!rekey_ecb(self->ecb, ZEROS)) primitives_free(self);
  return ok ? true : failed();
}

/* HMAC of up to three pieces of data. The context holds the key until the next call of mac_end(). */
static bool mac(primitives *self, span key, const span *pieces, size_t count, uint8_t out[HASH_BYTES]) {
  size_t written;
  /* RFC 2104 fills a short key up with zeros, so that 32 of them are the empty key; OpenSSL takes none as "the same again". */
  if (key.size == 0) key = (span){ZEROS, sizeof ZEROS};
  if (EVP_MAC_init(self->hmac, key.data, key.size, NULL) != 1) return false;
  for (size_t i = 0; i < count; i++) {
    if (pieces[i].size > 0 && EVP_MAC_update(self->hmac, pieces[i].data, pieces[i].size) != 1) return false;
  }
  return EVP_MAC_final(self->hmac, out, &written, HASH_BYTES) == 1 && written == HASH_BYTES;
}

static bool mac_end(primitives *self, bool ok) {
  if (EVP_MAC_init(self->hmac, ZEROS, sizeof ZEROS, NULL) != 1) primitives_free(self);
  return ok ? true : failed();
}

bool hmac_sha256(primitives *self, span key, span data, uint8_t out[HASH_BYTES]) {
  uint8_t result[HASH_BYTES];
  if (!ready(self)) return false;
  bool ok = mac_end(self, mac(self, key, &data, 1, result));
  if (ok) memcpy(out, result, sizeof result);
  OPENSSL_cleanse(result, sizeof result);
  return ok;
}

/* RFC 5869. */
bool hkdf_sha256(primitives *self, span key, span salt, span info, uint8_t *out, size_t size) {
  /* Not written to `out` before all is there: `info` may overlap with it, and is read for each block. */
  uint8_t derived[MAX_HKDF_BYTES], pseudorandom[HASH_BYTES], block[HASH_BYTES], counter = 1;
  if (!ready(self)) return false;
  bool ok = mac(self, salt, &key, 1, pseudorandom);
  size_t done = 0;
  while (ok && done < size) {
    const span pieces[] = {{block, done == 0 ? 0 : HASH_BYTES}, info, {&counter, 1}};
    ok = mac(self, (span){pseudorandom, HASH_BYTES}, pieces, 3, block);
    size_t take = size - done < HASH_BYTES ? size - done : HASH_BYTES;
    if (ok) memcpy(derived + done, block, take);
    done += take;
    counter++;
  }
  OPENSSL_cleanse(pseudorandom, sizeof pseudorandom);
  OPENSSL_cleanse(block, sizeof block);
  ok = mac_end(self, ok);
  if (ok && size > 0) memcpy(out, derived, size);
  OPENSSL_cleanse(derived, done);
  return ok;
}
