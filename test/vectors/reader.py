"""Opens envelopes, written from docs/envelope-format.md alone (clauses in the comments; SHAPES is refused as 3.2 says).
`python3 reader.py FILE` checks vectors and exits with 1 if any is wrong. A JSON integer from 2^53 on means a BigInt."""
import base64, collections, hashlib, hmac, io, json, math, re, struct, sys
from cryptography.exceptions import InvalidTag as Reject
from cryptography.hazmat.primitives.ciphers import Cipher, aead, algorithms, modes
INLINE_KEY, NOT_AFTER, SHAPES, CLIENT_BOUND = 1, 2, 4, 8
WIDTHS = dict(zip([*range(0xC4, 0xCA), *range(0xD9, 0xE0)], [1, 2, 4, 1, 2, 4, 1, 2, 4, 2, 4, 2, 4]))  # of a length
KINDS, ELEMENT = """ArrayBuffer DataView Buffer Int8Array Uint8ClampedArray Int16Array Uint16Array Int32Array
    Uint32Array Float32Array Float64Array BigInt64Array BigUint64Array""".split(), [*map(int, "1111122444888")]
HOLE, UNDEFINED, INT64 = object(), object(), range(-1 << 63, 1 << 64)  # a number is a float here, a BigInt an int
def need(condition, result=None):
    if not condition: raise Reject
    return result
def take(source, size): return source.read(need(size <= len(source.getbuffer()) - source.tell(), size))
def number(source, size, signed=False): return int.from_bytes(take(source, size), "big", signed=signed)
def context(*parts): return b"".join(len(part).to_bytes(2, "big") + part for part in map(str.encode, parts))  # 4.2
def derive(key, name):  # 1.2, 3.4: RFC 5869 with an empty salt; 32 bytes are the first block
    return hmac.digest(hmac.digest(bytes(32), key, "sha256"), f"sealed-session/v1/{name}\1".encode(), "sha256")
def aes_key(sealing_key, nonce):  # 2.1: XAES-256-GCM up to AES-256-GCM; k1 is the subkey of AES-256-CMAC
    aes = Cipher(algorithms.AES(sealing_key), modes.ECB()).encryptor().update
    block = int.from_bytes(aes(bytes(16)), "big")
    k1 = block << 1 ^ (block >> 127) * (1 << 128 | 0x87)
    return b"".join(aes((k1 ^ int.from_bytes(b"\0%cX\0" % i + nonce[:12], "big")).to_bytes(16, "big")) for i in (1, 2))

def decode(data, level=0):
    value = item(source := io.BytesIO(data), level)
    return need(not source.read() and value is not HOLE, value)  # 6.2
def item(source, level):  # 6.1
    head = number(source, 1)
    if head < 0x80 or head >= 0xE0: return float(head if head < 0x80 else head - 0x100)
    if 0xC0 <= head <= 0xC3: return need(head != 0xC1, {0xC2: False, 0xC3: True}.get(head))
    if 0xCA <= head <= 0xCB: return struct.unpack(">f" if head == 0xCA else ">d", take(source, 4 << head - 0xCA))[0]
    if 0xCC <= head <= 0xD3: return (int if head & 3 == 3 else float)(number(source, 1 << (head & 3), head >= 0xD0))
    if head in WIDTHS: size = number(source, WIDTHS[head])
    else: size = head & 15 if head < 0xA0 else head & 31 if head < 0xC0 else 1 << head - 0xD4
    if 0xA0 <= head <= 0xBF or 0xD9 <= head <= 0xDB: return take(source, size).decode()
    if 0xC4 <= head <= 0xC6: return take(source, size)
    if 0xC7 <= head <= 0xD8: return extension(number(source, 1), take(source, size), level)
    need(level < 100)
    if 0x90 <= head <= 0x9F or 0xDC <= head <= 0xDD: return [item(source, level + 1) for _ in range(size)]
    pairs = [(need(isinstance(key := item(source, level + 1), str), key), item(source, level + 1)) for _ in range(size)]
    return need(len(dict(pairs)) == size and HOLE not in dict(pairs).values(), dict(pairs))
def extension(kind, data, level):
    if kind == 0 and data in (b"\0", b"\1"): return UNDEFINED if data == b"\0" else HOLE
    if kind in (1, 2):  # every second item of a Map (1) is a key, every item of a Set (2)
        need(isinstance(content := decode(data, level), list) and HOLE not in content and not len(content) % (3 - kind))
        keys = [key for key in content[::3 - kind] if not isinstance(key, (list, dict, bytes))]
        need(len(keys) == len({repr(key + 0.0 if isinstance(key, float) else key) for key in keys}))  # + 0.0: -0 is 0
        return {"$set": content} if kind == 2 else {"$map": [content[at:at + 2] for at in range(0, len(content), 2)]}
    value = int.from_bytes(data, "big", signed=True)
    if kind == 3 and value not in INT64 and len(data) == (value + (value < 0)).bit_length() // 8 + 1: return value
    if kind == 4 and data and data[0] < len(KINDS) and (len(data) - 1) % ELEMENT[data[0]] == 0:
        return {"$typed": KINDS[data[0]], "bytes": data[1:].hex()}
    if kind == 5: return need(re.search("[\ud800-\udfff]", text := data.decode("utf-16-be", "surrogatepass")), text)
    need(kind == 0xFF and len(data) in (4, 8, 12))  # -1
    nanos, seconds = struct.unpack(">Iq", data) if len(data) == 12 else divmod(int.from_bytes(data, "big"), 1 << 34)
    return need(nanos < 10**9, {"$date": float(seconds * 1000 + nanos // 10**6)})

def open_envelope(case):
    source = io.BytesIO(bytes.fromhex(case["envelope"]))
    magic, flags, key_id, nonce = struct.unpack(">BB12s24s", take(source, 38))
    need(magic == 0xE5 and flags >> 4 == 1 and not flags & SHAPES and len(source.getbuffer()) <= 1 << 20)  # 3.2
    end = number(source, 4) if flags & NOT_AFTER else math.inf
    record = take(source, number(source, 2)) if flags & INLINE_KEY else b""
    aad = source.getvalue()[:source.tell()] + context(case["purpose"], case["namespace"], case["id"])
    need(len(sealed := source.read()) > 16 and bool(record) == bool(flags & INLINE_KEY) and len(record) <= 8192)
    found = {(c, key) for key in map(bytes.fromhex, case["keys"]) if (c := derive(key, "commitment"))[:12] == key_id}
    (commitment, data_key), = need(len(found) == 1, found)  # 1.3; then 3.5 and the beginning of 5.1
    if record: need(isinstance(fields := decode(record), list) and len(fields) == 5 and fields[:2] == [1.0, commitment])
    sealing_key = derive(data_key, "seal")
    if flags & CLIENT_BOUND: sealing_key = derive(sealing_key, "client" + need("sessionId" in case, case)["sessionId"])
    key = aes_key(sealing_key, nonce)
    plaintext = aead.AESGCM(key).decrypt(nonce[12:], sealed, aad)
    need(case["now"] < end * 1000)  # 3.3
    return {"ok": {"commitment": commitment.hex(), "sealingKey": sealing_key.hex(), "aesKey": key.hex(),
                   "aad": aad.hex(), "plaintext": plaintext.hex(), "value": decode(plaintext)}}

def derived(v):
    commitment, seal, index = (derive(bytes.fromhex(v["dataKey"]), n).hex() for n in ("commitment", "seal", "index"))
    return {"commitment": commitment, "keyId": commitment[:24], "sealingKey": seal, "indexKey": index}
READ = {"envelope": open_envelope, "derive": derived, "payload": lambda v: {"value": decode(bytes.fromhex(v["bytes"]))},
        "storedId": lambda v: {"storedId": base64.urlsafe_b64encode(  # 4.3
            hashlib.sha256(v["sessionId"].encode()).digest()[:18]).decode()},
        "index": lambda v: {"entry": hmac.digest(derive(bytes.fromhex(v["dataKey"]), "index"), context(  # 1.4
            "index", v["namespace"], v["name"], v["value"]), "sha256")[:16].hex()}}
UNTAG = {"$bigint": int, "$number": float, "$bytes": bytes.fromhex, "$undefined": lambda _: UNDEFINED,
         "$hole": lambda _: HOLE, "$utf16": lambda units: bytes.fromhex(units).decode("utf-16-be", "surrogatepass")}
def untag(tagged): return next((UNTAG[tag](tagged[tag]) for tag in tagged if tag in UNTAG), tagged)
def integer(digits): return int(digits) if abs(int(digits)) >= 1 << 53 else float(digits)
def verdict(kind, case):
    try: got = READ[kind](case)
    except (Reject, UnicodeError, OverflowError): got = {}  # OverflowError: a part of a context over 65535 bytes
    right = repr(got) == repr({field: case.get(field) for field in got}) if got else {"reject", "shapes"} & {*case}
    if not right: print("wrong:", kind, case.get("name", case), got or "refused")
    outcome = "unsupported" if "shapes" in case else "refused" if not got else "opened" if "ok" in got else "matched"
    return outcome if right else "wrong"
file = json.load(open(sys.argv[1], "rb"), object_hook=untag, parse_int=integer)
counts = collections.Counter(verdict(kind, case) for kind in READ for case in file.get(kind, []))
print(", ".join(f"{counts[name]} {name}" for name in ("opened", "refused", "matched", "unsupported", "wrong")))
sys.exit(counts["wrong"] > 0 or not counts["opened"])
