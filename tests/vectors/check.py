#!/usr/bin/python3
"""Computes every value of share-record.json and derivations.json from README.md alone.

A second implementation: nothing of the Rust code is used. HMAC and SHA come from Python's
standard library, Ed25519 from the package `cryptography` (OpenSSL's); HKDF, the field, the
layout and the judgement of a record are written out below. Secrets here are examples, so
nothing is wiped and nothing takes constant time.

Exit status 0 and a line of counts: every value is right. 1: the first that is not is named.
"""

import hashlib
import hmac
import json
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
KINDS = {"backup-key": 1, "slot-user": 3, "so-pin": 4}

# The eight points of small order as they are encoded: a strict check takes none of them, as
# key or as R.
SMALL_ORDER = {
    bytes.fromhex(point)
    for point in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
}


# ---------------------------------------------------------------- derivations


def hmac_sha256(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def extract(salt, key):
    """HKDF-Extract, RFC 5869, section 2.2."""
    return hmac_sha256(salt, key)


def expand(prk, info, length):
    """HKDF-Expand, RFC 5869, section 2.3."""
    block, out, number = b"", b"", 0
    while len(out) < length:
        number += 1
        block = hmac_sha256(prk, block + info + bytes([number]))
        out += block
    return out[:length]


def key_id(secret):
    return hmac_sha256(secret, b"slotwarden/key-id/v1")[:16]


def set_id(public_key):
    return hashlib.sha256(b"slotwarden/set/v1" + public_key).digest()[:16]


def child(backup_key, label, slot_uid):
    return expand(extract(b"slotwarden/backup-key/v1", backup_key), label + slot_uid, 32)


def pin(label, secret, code, slot_uid, of_set, chars):
    prk = extract(slot_uid, secret + len(code).to_bytes(2, "big") + code)
    stream = expand(prk, label + of_set, 128)
    digits = [byte & 0x3F for byte in stream]
    return "".join(BASE58[digit] for digit in digits if digit < 58)[:chars]


# ---------------------------------------------------------------- sharing


def times(one, other):
    """The product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1."""
    product = 0
    while other:
        if other & 1:
            product ^= one
        one = one << 1 ^ (0x11B if one & 0x80 else 0)
        other >>= 1
    return product


def value_at(coefficients, x):
    """Horner, byte by byte; the coefficient of degree 0 comes first."""
    y = bytes(32)
    for coefficient in reversed(coefficients):
        y = bytes(times(byte, x) ^ add for byte, add in zip(y, coefficient))
    return y


def at_zero(points):
    """Lagrange: the value at 0 of the polynomial through these points."""
    secret = bytes(32)
    for own, y in points:
        weight = 1
        for other, _ in points:
            if other != own:
                quotient = next(q for q in range(256) if times(q, own ^ other) == other)
                weight = times(weight, quotient)
        secret = bytes(byte ^ times(weight, add) for byte, add in zip(secret, y))
    return secret


# ---------------------------------------------------------------- records


def header(of_set, x):
    scheme = 0 if of_set["m"] == 1 else 1
    return b"".join(
        (
            b"SLWS",
            bytes([1, KINDS[of_set["kind"]], scheme, 0]),
            bytes.fromhex(of_set["set_id"]),
            bytes.fromhex(of_set["subject"]),
            bytes([of_set["m"], of_set["n"], x, 0]),
            of_set["generation"].to_bytes(4, "big"),
            of_set["created_s"].to_bytes(8, "big"),
            bytes.fromhex(of_set["key_id"]),
        )
    )


def problem(record):
    """Why these bytes are no record; None when they are one."""
    if len(record) == 0:
        return "missing"
    if len(record) != 200 or record[:4] != b"SLWS":
        return "not-ours"
    version, kind, scheme, reserved = record[4:8]
    m, n, x, also_reserved = record[40:44]
    if version != 1 or kind not in (1, 3, 4) or scheme not in (0, 1):
        return "newer"
    if reserved or also_reserved:
        return "not-ours"
    if not 1 <= m <= n <= 16 or not 1 <= x <= n or (scheme == 0) != (m == 1) or (m == 1 and kind == 1):
        return "malformed"
    public_key, signature = record[104:136], record[136:]
    if record[8:24] != set_id(public_key):
        return "malformed"
    if public_key in SMALL_ORDER or signature[:32] in SMALL_ORDER:
        return "forged"
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, record[:136])
    except (InvalidSignature, ValueError):
        return "forged"
    return None


# ---------------------------------------------------------------- the files

checked = 0


def same(what, stored, computed):
    global checked
    checked += 1
    if isinstance(computed, bytes):
        computed = computed.hex()
    if stored != computed:
        sys.exit(f"{what}: the file has {stored}, computed is {computed}")


def check_set(of_set):
    name = f"{of_set['kind']}, {of_set['m']} of {of_set['n']}"
    seed, secret = bytes.fromhex(of_set["seed"]), bytes.fromhex(of_set["secret"])
    signing_seed = expand(seed, b"slotwarden/card-set/signing/v1", 32)
    key = Ed25519PrivateKey.from_private_bytes(signing_seed)
    public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    same(f"{name}: signing seed", of_set["signing_seed"], signing_seed)
    same(f"{name}: public key", of_set["public_key"], public_key)
    same(f"{name}: set id", of_set["set_id"], set_id(public_key))
    same(f"{name}: key id", of_set["key_id"], key_id(secret))
    info = b"slotwarden/card-set/coefficients/v1" + set_id(public_key)
    stream = expand(seed, info, 32 * (of_set["m"] - 1))
    coefficients = [secret] + [stream[at : at + 32] for at in range(0, len(stream), 32)]
    same(f"{name}: coefficients", of_set["coefficients"], [coefficient.hex() for coefficient in coefficients])
    same(f"{name}: how many records", len(of_set["records"]), of_set["n"])
    points = []
    for x, vector in enumerate(of_set["records"], 1):
        y = value_at(coefficients, x)
        signed = header(of_set, x) + y + public_key
        same(f"{name}: x", vector["x"], x)
        same(f"{name}: y of share {x}", vector["y"], y)
        same(f"{name}: signature of share {x}", vector["signature"], key.sign(signed))
        same(f"{name}: record of share {x}", vector["record"], signed + key.sign(signed))
        same(f"{name}: record of share {x} is judged", problem(bytes.fromhex(vector["record"])), None)
        points.append((x, y))
    for some in (points[: of_set["m"]], points[-of_set["m"] :]):
        same(f"{name}: combined", of_set["secret"], at_zero(some))


def read(name):
    return json.loads((pathlib.Path(__file__).parent / name).read_text(encoding="ascii"))


def main():
    records = read("share-record.json")
    for of_set in records["sets"]:
        check_set(of_set)
    for vector in records["refused"]:
        same(vector["why"], vector["problem"], problem(bytes.fromhex(vector["record"])))

    derivations = read("derivations.json")
    for vector in derivations["key_ids"]:
        same("key id", vector["key_id"], key_id(bytes.fromhex(vector["secret"])))
    for vector in derivations["set_ids"]:
        same("set id", vector["set_id"], set_id(bytes.fromhex(vector["public_key"])))
    for vector in derivations["backup_keys"]:
        backup_key, slot_uid = bytes.fromhex(vector["backup_key"]), bytes.fromhex(vector["slot_uid"])
        mak = child(backup_key, b"slotwarden/mak/v1", slot_uid)
        same("KEK", vector["kek"], child(backup_key, b"slotwarden/kwp/v1", slot_uid))
        same("MAK", vector["mak"], mak)
        same("MAK's check", vector["mak_check"], hmac_sha256(mak, b"slotwarden/mak-check/v1"))
    for kind, label in (("slot_pins", b"slotwarden/slot-pin/v1"), ("so_pins", b"slotwarden/so-pin/v1")):
        for vector in derivations[kind]:
            secret, slot_uid = bytes.fromhex(vector["secret"]), bytes.fromhex(vector["slot_uid"])
            code, of_set = vector.get("code", "").encode("ascii"), bytes.fromhex(vector["set_id"])
            same(kind, vector["pin"], pin(label, secret, code, slot_uid, of_set, vector["chars"]))
            same(f"{kind}: characters", vector["chars"], len(vector["pin"]))

    print(f"{checked} values are right")


if __name__ == "__main__":
    main()
