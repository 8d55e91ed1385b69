#!/usr/bin/python3
"""Opens a package of keys with a target's private HPKE key, without any of Slotwarden's code.

    open_package.py PACKAGE KEY [RECORD...] [--out DIR]

PACKAGE is the file; KEY holds the 32 bytes of the node's private key: for suite 1 the seed of
X-Wing, for suite 2 the number of P-256. Checks structure, counts, hash and signature, opens the content key
by HPKE (RFC 9180), checks the commitment, decrypts the chunks, and reads what is inside: facts
about keys, and an export, unless it is a receipt. The keys of the export are still wrapped under the cluster's backup
key; with the RECORDs of enough shares on cards they are unwrapped as `open_export.py` does it. README.md describes the
format; Python's standard library and the package `cryptography` are all that is needed (ML-KEM, which older versions of it
do not have, is written out here from FIPS 203). A tool for the day when nothing else is left: what
it writes is in the clear, nothing is wiped, nothing takes constant time.

Exit status 0: everything was opened. 1: what is wrong is named.
"""

import hashlib
import hmac
import pathlib
import struct
import sys

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import open_export
from open_export import Body, Refused

HEADER, SEALED, COMMITMENT, CHUNK, END = 1, 2, 3, 4, 5
BEGIN, ROWS, FACTS_END = 16, 17, 18
X_WING, P256 = 1, 2
ENC_BYTES = {X_WING: 1120, P256: 65}
CHUNK_BYTES, TAG_BYTES = 65536, 16
FACTS_MAX, SLOTS_MAX, ROWS_MAX = 100_000, 64, 256


def frame(data, at, longest):
    """Kind, body, and where the frame ends."""
    if at + 5 > len(data):
        raise Refused("the file ends too early")
    kind, length = data[at], struct.unpack(">I", data[at + 1 : at + 5])[0]
    if length > longest:
        raise Refused("a frame is longer than the format allows")
    if at + 5 + length > len(data):
        raise Refused("the file ends too early")
    return kind, Body(data[at + 5 : at + 5 + length]), at + 5 + length


def exactly(kind, wanted):
    if kind != wanted:
        raise Refused("a frame is where none of its kind may be")


def number(body):
    """In its shortest form only."""
    begun = body.at
    value = body.number()
    if body.at - begun > 1 and body.data[body.at - 1] == 0:
        raise Refused("a number is not in its only form")
    return value


def flag(body):
    byte = body.take(1)
    if byte not in (b"\x00", b"\x01"):
        raise Refused("a frame does not hold what its kind holds")
    return byte == b"\x01"


def header(body):
    found = {"package_id": body.take(16), "cluster": body.take(16), "source": body.take(32)}
    found["epoch"], found["roster"], found["sequence"] = number(body), body.take(32), number(body)
    found["key_id"] = body.take(16)
    found["made"] = number(body) if flag(body) else None
    found["targets"] = [body.take(32) for _ in range(number(body))]
    found["suite"] = body.take(1)[0]
    body.end()
    targets = found["targets"]
    if not 0 < len(targets) <= 8 or any(one >= other for one, other in zip(targets, targets[1:])):
        raise Refused("the targets are none, too many, or not in rising order")
    if found["suite"] not in ENC_BYTES or found["epoch"] == 0 or found["sequence"] == 0:
        raise Refused("the header does not hold what it has to")
    return found


def read(data):
    """The header, the sealed keys, the commitment and the chunks of a whole and signed file."""
    if data[:4] != b"SLWP":
        raise Refused("the file does not begin as a package")
    if len(data) < 5:
        raise Refused("the file ends too early")
    if data[4] != 1:
        raise Refused("the package has a version that is not known here")
    kind, body, at = frame(data, 5, 2048)
    exactly(kind, HEADER)
    about, behind_header = header(body), at
    about["hash"] = hashlib.sha256(data[:at]).digest()
    sealed, chunks, is_last = [], [], False
    for target in about["targets"]:
        kind, body, at = frame(data, at, 2048)
        exactly(kind, SEALED)
        if body.take(32) != target:
            raise Refused("a sealed key is not that of the next target")
        enc, key = body.take(number(body)), body.take(number(body))
        body.end()
        if (len(enc), len(key)) != (ENC_BYTES[about["suite"]], 32 + TAG_BYTES):
            raise Refused("a sealed key has another length than those of its suite")
        sealed.append((target, enc, key))
    kind, body, at = frame(data, at, 2048)
    exactly(kind, COMMITMENT)
    commitment = body.take(32)
    body.end()
    while not is_last:
        kind, body, at = frame(data, at, CHUNK_BYTES + TAG_BYTES + 4)
        exactly(kind, CHUNK)
        is_last = flag(body)
        chunks.append(body.take(number(body)))
        body.end()
        length = len(chunks[-1]) - TAG_BYTES
        if length != CHUNK_BYTES and not (is_last and 0 < length < CHUNK_BYTES):
            raise Refused("a chunk that is not the last is not full, or the last is empty")
    begun = at
    kind, body, at = frame(data, at, 2048)
    exactly(kind, END)
    count, digest, signature = number(body), body.take(32), body.take(64)
    body.end()
    if count != len(chunks):
        raise Refused("the file says that it holds more, or less, than it does")
    if digest != hashlib.sha256(data[behind_header:begun]).digest():
        raise Refused("the hash at the end is not that of the file")
    message = b"slotwarden/package/v1" + about["hash"] + digest
    try:
        Ed25519PublicKey.from_public_bytes(about["source"]).verify(signature, message)
    except InvalidSignature as wrong:
        raise Refused("the signature is not that of the source") from wrong
    if at != len(data):
        raise Refused("something follows the end of the package")
    about["package"] = hashlib.sha256(message).digest()
    return about, sealed, commitment, chunks


# HPKE, base mode, RFC 9180: HKDF-SHA256 and AES-256-GCM.


def extract(salt, secret):
    return hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()


def expand(prk, info, length):
    out = block = b""
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256).digest()
        out += block
    return out[:length]


def labeled_extract(suite, salt, label, secret):
    return extract(salt, b"HPKE-v1" + suite + label + secret)


def labeled_expand(suite, prk, label, info, length):
    return expand(prk, struct.pack(">H", length) + b"HPKE-v1" + suite + label + info, length)


def hpke_open(kem, shared, info, ciphertext, aead=2):
    suite = b"HPKE" + struct.pack(">HHH", kem, 1, aead)
    context = b"\x00" + labeled_extract(suite, b"", b"psk_id_hash", b"") + labeled_extract(suite, b"", b"info_hash", info)
    secret = labeled_extract(suite, shared, b"secret", b"")
    key = labeled_expand(suite, secret, b"key", context, 32)
    nonce = labeled_expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")


def p256_decapsulate(private, enc):
    """DHKEM(P-256, HKDF-SHA256), RFC 9180, section 4.1."""
    key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
    shared = key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), enc))
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    suite = b"KEM\x00\x10"
    prk = labeled_extract(suite, b"", b"eae_prk", shared)
    return labeled_expand(suite, prk, b"shared_secret", enc + public, 32)


def x_wing_decapsulate(seed, enc):
    """X-Wing, draft-connolly-cfrg-xwing-kem, section 5."""
    expanded = hashlib.shake_256(seed).digest(96)
    shared_m = ml_kem_decapsulate(expanded[:32], expanded[32:64], enc[:1088])
    key = X25519PrivateKey.from_private_bytes(expanded[64:])
    shared_x = key.exchange(X25519PublicKey.from_public_bytes(enc[1088:]))
    public_x = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha3_256(shared_m + shared_x + enc[1088:] + public_x + rb"\.//^" + b"\\").digest()


# ML-KEM-768, FIPS 203. Polynomials are lists of 256 numbers modulo 3329; with a hat they are in the domain of the NTT.

Q, N, K, ETA, DU, DV = 3329, 256, 3, 2, 10, 4


def reversed_bits(value):
    return int(f"{value:07b}"[::-1], 2)


ZETAS = [pow(17, reversed_bits(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * reversed_bits(i) + 1, Q) for i in range(128)]


def ntt(poly):
    """Algorithm 9."""
    f, i, length = list(poly), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = ZETAS[i] * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
            i += 1
        length //= 2
    return f


def inverse_ntt(poly):
    """Algorithm 10."""
    f, i, length = list(poly), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = ZETAS[i] * (f[j + length] - t) % Q
            i -= 1
        length *= 2
    return [x * 3303 % Q for x in f]


def multiplied(f, g):
    """Algorithms 11 and 12."""
    h = []
    for i in range(128):
        a, b, c, d = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a * c + b * d * GAMMAS[i]) % Q, (a * d + b * c) % Q]
    return h


def added(f, g):
    return [(x + y) % Q for x, y in zip(f, g)]


def product(row, vector):
    total = [0] * N
    for f, g in zip(row, vector):
        total = added(total, multiplied(f, g))
    return total


def sample_ntt(seed):
    """Algorithm 7."""
    stream, found, at = hashlib.shake_128(seed).digest(168 * 8), [], 0
    while len(found) < N:
        a, b, c = stream[at : at + 3]
        found += [x for x in (a + 256 * (b % 16), b // 16 + 16 * c) if x < Q]
        at += 3
    return found[:N]


def sample_cbd(seed, count):
    """Algorithm 8 of PRF with this number."""
    bits = to_bits(hashlib.shake_256(seed + bytes([count])).digest(64 * ETA))
    pairs = [bits[at : at + 2 * ETA] for at in range(0, 2 * N * ETA, 2 * ETA)]
    return [(sum(pair[:ETA]) - sum(pair[ETA:])) % Q for pair in pairs]


def to_bits(data):
    return [byte >> bit & 1 for byte in data for bit in range(8)]


def encoded(poly, width):
    """Algorithm 5."""
    value = sum(x << width * i for i, x in enumerate(poly))
    return value.to_bytes(32 * width, "little")


def decoded(data, width):
    """Algorithm 6."""
    value = int.from_bytes(data, "little")
    return [value >> width * i & (1 << width) - 1 for i in range(N)]


def compressed(poly, width):
    return [((x << width) + Q // 2) // Q % (1 << width) for x in poly]


def decompressed(poly, width):
    return [(x * Q + (1 << width - 1)) >> width for x in poly]


def matrix(rho):
    return [[sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def ml_kem_keys(d):
    """Algorithm 13: t and s (both with a hat), and rho."""
    seeds = hashlib.sha3_512(d + bytes([K])).digest()
    rho, sigma = seeds[:32], seeds[32:]
    s = [ntt(sample_cbd(sigma, i)) for i in range(K)]
    e = [ntt(sample_cbd(sigma, K + i)) for i in range(K)]
    t = [added(product(row, s), error) for row, error in zip(matrix(rho), e)]
    return t, s, rho


def ml_kem_encrypt(t, rho, message, r):
    """Algorithm 14."""
    a = matrix(rho)
    y = [ntt(sample_cbd(r, i)) for i in range(K)]
    e1 = [sample_cbd(r, K + i) for i in range(K)]
    e2 = sample_cbd(r, 2 * K)
    u = [added(inverse_ntt(product([a[j][i] for j in range(K)], y)), e1[i]) for i in range(K)]
    mu = decompressed(to_bits(message), 1)
    v = added(added(inverse_ntt(product(t, y)), e2), mu)
    return b"".join(encoded(compressed(poly, DU), DU) for poly in u) + encoded(compressed(v, DV), DV)


def ml_kem_decapsulate(d, z, ciphertext):
    """Algorithms 15 and 18, with the private key made anew from its seeds."""
    t, s, rho = ml_kem_keys(d)
    parts = [ciphertext[at : at + 32 * DU] for at in range(0, 32 * DU * K, 32 * DU)]
    u = [decompressed(decoded(part, DU), DU) for part in parts]
    v = decompressed(decoded(ciphertext[32 * DU * K :], DV), DV)
    w = inverse_ntt(product(s, [ntt(poly) for poly in u]))
    message = encoded(compressed([(x - y) % Q for x, y in zip(v, w)], 1), 1)
    public = b"".join(encoded(poly, 12) for poly in t) + rho
    seeds = hashlib.sha3_512(message + hashlib.sha3_256(public).digest()).digest()
    if ml_kem_encrypt(t, rho, message, seeds[32:]) != ciphertext:
        return hashlib.shake_256(z + ciphertext).digest(32)
    return seeds[:32]


# What is inside.


def payload(about, sealed, commitment, chunks, private):
    """The plaintext, and the target whose key this is."""
    decapsulate = {X_WING: x_wing_decapsulate, P256: p256_decapsulate}[about["suite"]]
    kem = {X_WING: 0x647A, P256: 0x0010}[about["suite"]]
    for target, enc, key in sealed:
        info = b"slotwarden/slwp/v1" + about["hash"] + target
        try:
            content = hpke_open(kem, decapsulate(private, enc), info, key)
            break
        except InvalidTag:
            continue
    else:
        raise Refused("no sealed key of the package opens with this key")
    if expand(content, b"slotwarden/slwp/commitment/v1", 32) != commitment:
        raise Refused("the content key is not the one that the package is tied to")
    cipher, opened = AESGCM(expand(content, b"slotwarden/slwp/payload/v1", 32)), b""
    for place, chunk in enumerate(chunks):
        nonce = bytes(7) + struct.pack(">I", place) + bytes([place + 1 == len(chunks)])
        try:
            opened += cipher.decrypt(nonce, chunk, about["hash"])
        except InvalidTag as wrong:
            raise Refused(f"chunk {place} does not open") from wrong
    return target, opened


def facts(data):
    """Slots with their rows, and what follows: an export, or nothing."""
    slots, at, wanted = [], 0, 0
    while True:
        begun = at
        kind, body, at = frame(data, at, ROWS_MAX * 21 + 2)
        if kind == ROWS and wanted:
            rows = body.take(number(body))
            body.end()
            if len(rows) != 21 * min(wanted, ROWS_MAX):
                raise Refused("a slot has more facts, or less, than it says")
            wanted -= len(rows) // 21
            for place in range(0, len(rows), 21):
                name, (count, here) = rows[place : place + 16], struct.unpack(">IB", rows[place + 16 : place + 21])
                if here > 1 or count == 0 or (slots[-1][1] and slots[-1][1][-1][0] >= name):
                    raise Refused("the names of a slot do not rise, or a row is not in its only form")
                slots[-1][1].append((name, count, here == 1))
        elif kind == BEGIN and not wanted:
            uid, wanted = body.take(16), number(body)
            body.end()
            if wanted > FACTS_MAX or len(slots) == SLOTS_MAX or (slots and slots[-1][0] >= uid):
                raise Refused("the slots of the facts do not rise, or are too many")
            slots.append((uid, []))
        elif kind == FACTS_END and not wanted:
            count, keys, digest = body.take(1)[0], flag(body), body.take(32)
            body.end()
            if count != len(slots) or digest != hashlib.sha256(data[:begun] + bytes([count, keys])).digest():
                raise Refused("the facts are not those that their end says")
            if not keys and at != len(data):
                raise Refused("something follows the facts of a receipt")
            return slots, data[at:] if keys else None
        else:
            raise Refused("a frame is where none of its kind may be")


def attribute(attributes, wanted):
    at = 0
    while at < len(attributes):
        kind, length = struct.unpack(">IH", attributes[at : at + 6])
        if kind == wanted:
            return attributes[at + 6 : at + 6 + length]
        at += 6 + length
    return b""


def key_name(uid, entry):
    parts = [entry["id"], entry["label"]]
    if open_export.CLASSES[entry["class"]] == "certificate":
        parts.append(attribute(entry["set"], 0x11))
    before = b"slotwarden/key-name/v1" + uid + bytes([entry["class"]]) + struct.pack(">Q", entry["key_type"])
    return hashlib.sha256(before + b"".join(struct.pack(">H", len(part)) + part for part in parts)).digest()[:16]


def main(arguments):
    out = None
    if "--out" in arguments:
        at = arguments.index("--out")
        out = pathlib.Path(arguments[at + 1])
        del arguments[at : at + 2]
    package, private, *records = [pathlib.Path(name).read_bytes() for name in arguments]
    if len(private) != 32:
        raise Refused("a private key has 32 bytes")
    about, sealed, commitment, chunks = read(package)
    target, opened = payload(about, sealed, commitment, chunks, private)
    suite = {X_WING: "X-Wing", P256: "P-256"}[about["suite"]]
    print(f"package {about['sequence']} of {about['source'].hex()[:16]}, {suite}, {about['package'].hex()[:16]}")
    print(f"opened as {target.hex()[:16]}, one of {len(sealed)}")
    slots, export = facts(opened)
    here = {}
    for uid, rows in slots:
        here[uid] = {name for name, _, there in rows if there}
        removed = sum(count % 2 == 0 for _, count, _ in rows)
        print(f"slot {uid.hex()[:16]}: {len(rows)} known, {len(here[uid])} there, {removed} removed")
    if export is None:
        print("a receipt: no keys")
        return
    inside, sections = open_export.read(export)
    if (inside["node"], inside["cluster"], inside["key_id"]) != (about["source"], about["cluster"], about["key_id"]):
        raise Refused("the export in the package is of another node, cluster or key")
    for found in sections:
        named = [key_name(found["uid"], item) in here.get(found["uid"], ()) for item in found["entries"]]
        if not all(named):
            print(f"{found['name']}: {named.count(False)} entries that the facts do not name")
    if records:
        open_export.unwrap(sections, open_export.backup_key(records, about["key_id"]), out)
    else:
        for found in sections:
            print(f"{found['name']}: {len(found['entries'])} entries, wrapped; the shares of the backup key unwrap them")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError, UnicodeDecodeError, ValueError, IndexError) as refused:
        sys.exit(f"refused: {refused}")
