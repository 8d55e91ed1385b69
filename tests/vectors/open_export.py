#!/usr/bin/python3
"""Opens a protected export from m shares or its passphrase, without any of Slotwarden's code.

    open_export.py EXPORT RECORD... [--out DIR]
    open_export.py EXPORT --passphrase-file FILE [--out DIR]

EXPORT is the file; each RECORD holds the 200 bytes of a share as they are on a card. Checks
structure, counts, hash and signature, puts the shares together, derives each slot's keys, checks
the MACs, and unwraps every key. With --out each goes into a file of its own: private keys as
PKCS #8, secret keys as they are. So does what an HSM vendor's own program wrote of a slot, SLOT.vendor:
only such a program takes it back, and what is in it nobody else knows. README.md describes the format; Python's standard library and
the package `cryptography` (OpenSSL's) are all that is needed, and for a passphrase `cryptography` 44 or
Debian's `python3-argon2`. A tool for the day when nothing
else is left: what it writes is in the clear, nothing is wiped, nothing takes constant time.

Exit status 0: everything was opened. 1: what is wrong is named.
"""

import hashlib
import hmac
import os
import pathlib
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding

HEADER, SECTION, ENTRY, LEFT_OUT, SECTION_END, TRAILER, PIECE = 1, 2, 3, 4, 5, 6, 7
KWP, VENDOR = 0, 1
PIECE_BYTES = 8000
CLASSES = ["secret", "private", "public", "certificate"]


class Refused(Exception):
    """The file or a share does not do."""


class Body:
    """The body of a frame, in postcard's form."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise Refused("a frame does not hold what its kind holds")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def bytes(self):
        return self.take(self.number())

    def end(self):
        if self.at != len(self.data):
            raise Refused("a frame holds more than its kind")


def frames(data):
    """Kind, body, where the frame begins, where it ends."""
    at = 5
    while at < len(data):
        if at + 5 > len(data):
            raise Refused("the file ends in a frame")
        kind, length = data[at], struct.unpack(">I", data[at + 1 : at + 5])[0]
        end = at + 5 + length
        if length > 8192 or end > len(data):
            raise Refused("the file ends in a frame, or one is too long")
        yield kind, Body(data[at + 5 : end]), at, end
        at = end


def header(body):
    export_id, cluster, node = body.take(16), body.take(16), body.take(32)
    kind = body.number()
    if kind == 0:
        protection = {"set_id": body.take(16)}
    elif kind == 1:
        protection = {"salt": body.take(16), "costs": [body.number() for _ in range(3)]}
    else:
        raise Refused("an unknown protection")
    key_id, sequence = body.take(16), body.number()
    made = body.number() if body.take(1) == b"\x01" else None
    previous, sections = body.take(32), body.take(1)[0]
    body.end()
    return {"node": node, "cluster": cluster, "protection": protection, "key_id": key_id, "sections": sections}


def section(body):
    uid, name = body.take(16), body.bytes().decode()
    strategy = body.number()
    token = [body.bytes().decode() for _ in range(4)]
    firmware = body.take(2)
    body.end()
    return {"uid": uid, "name": name, "strategy": strategy, "token": token, "entries": [], "left_out": [], "part": [], "whole": False}


def entry(body):
    found = {"index": body.number(), "class": body.number(), "key_type": body.number()}
    found["id"], found["label"] = body.bytes(), body.bytes()
    found["set"], found["recorded"], found["wrapped"] = body.bytes(), body.bytes(), body.bytes()
    body.end()
    return found


def left_out(body):
    found = {"class": body.number(), "key_type": body.number(), "id": body.bytes(), "label": body.bytes()}
    why = body.number()
    found["why"] = ["CKA_EXTRACTABLE is false", "CKA_WRAP_WITH_TRUSTED is true", "the token refused"][why]
    if why == 2:
        body.number()
    body.end()
    return found


def piece(body, into):
    """The next piece of a vendor part."""
    index, last, data = body.number(), body.take(1)[0], body.bytes()
    body.end()
    if into["strategy"] != VENDOR or into["whole"] or index != len(into["part"]):
        raise Refused("a piece of a vendor part is where it may not be")
    if last > 1 or not (1 <= len(data) <= PIECE_BYTES if last else len(data) == PIECE_BYTES):
        raise Refused("a piece of a vendor part has another length than it may have")
    into["part"].append(data)
    into["whole"] = last == 1


def read(data):
    """The whole file, with its signature; the MACs are still to be checked."""
    if data[:4] != b"SLWX":
        raise Refused("the file does not begin as an export")
    if data[4:5] != b"\x01":
        raise Refused("the export has a version that is not known here")
    about, sections, current, begun, after_header, ended = None, [], None, 0, 0, False
    for kind, body, at, end in frames(data):
        if ended:
            raise Refused("something follows the end of the export")
        if kind == HEADER and about is None:
            about, after_header = header(body), end
            about["hash"] = hashlib.sha256(data[:end]).digest()
        elif kind == SECTION and about and current is None:
            current, begun = section(body), at
        elif kind == PIECE and current is not None:
            piece(body, current)
        elif kind == ENTRY and current is not None and not current["part"]:
            found = entry(body)
            if found["index"] != len(current["entries"]):
                raise Refused("the indices do not rise by one")
            current["entries"].append(found)
        elif kind == LEFT_OUT and current is not None and not current["part"]:
            current["left_out"].append(left_out(body))
        elif kind == SECTION_END and current is not None:
            counts, current["mac"] = [body.number(), body.number()], body.take(32)
            body.end()
            if counts != [len(current["entries"]), len(current["left_out"])] or bool(current["part"]) != current["whole"]:
                raise Refused("a section says that it holds more, or less, than it does")
            digest = hashlib.sha256(data[begun:at]).digest()
            current["message"] = b"slotwarden/export-section/v1" + about["hash"] + digest
            sections.append(current)
            current = None
        elif kind == TRAILER and about and current is None:
            counts = [body.take(1)[0], body.number(), body.number()]
            digest, signature = body.take(32), body.take(64)
            body.end()
            if len(sections) != about["sections"] or counts != [
                len(sections),
                sum(len(found["entries"]) for found in sections),
                sum(len(found["left_out"]) for found in sections),
            ]:
                raise Refused("the file says that it holds more, or less, than it does")
            if digest != hashlib.sha256(data[after_header:at]).digest():
                raise Refused("the hash of the trailer is not that of the file")
            try:
                key = Ed25519PublicKey.from_public_bytes(about["node"])
                key.verify(signature, b"slotwarden/export/v1" + about["hash"] + digest)
            except InvalidSignature as wrong:
                raise Refused("the signature is not the node's") from wrong
            ended = True
        else:
            raise Refused("a frame is where none of its kind may be")
    if not ended:
        raise Refused("the file ends too early")
    return about, sections


def times(a, b):
    """GF(2^8) modulo x^8 + x^4 + x^3 + x + 1."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a, b = (a << 1) ^ (0x11B if a & 0x80 else 0), b >> 1
    return product


def inverse(a):
    result = 1
    for _ in range(254):
        result = times(result, a)
    return result


def combine(shares):
    """The value at 0 of the polynomial through (x, y), byte by byte."""
    secret = bytearray(32)
    for x, y in shares.items():
        factor = 1
        for other in shares:
            if other != x:
                factor = times(factor, times(other, inverse(other ^ x)))
        for at, byte in enumerate(y):
            secret[at] ^= times(factor, byte)
    return bytes(secret)


def backup_key(records, key_id):
    shares, wanted, sets = {}, None, set()
    for record in records:
        if len(record) != 200 or record[:7] != b"SLWS\x01\x01\x01":
            raise Refused("a share is no share of a backup key")
        public, signature = record[104:136], record[136:]
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, record[:136])
        except InvalidSignature as wrong:
            raise Refused("a share was altered") from wrong
        if record[8:24] != hashlib.sha256(b"slotwarden/set/v1" + public).digest()[:16]:
            raise Refused("a share names another set than the one that signed it")
        sets.add(record[8:24])
        wanted = record[40]
        shares[record[42]] = record[72:104]
    if len(sets) != 1:
        raise Refused("the shares are of different sets, or there is none")
    if len(shares) < wanted:
        raise Refused(f"{len(shares)} different shares are here, {wanted} are needed")
    secret = combine(dict(list(shares.items())[:wanted]))
    if hmac.new(secret, b"slotwarden/key-id/v1", hashlib.sha256).digest()[:16] != key_id:
        raise Refused("the shares give another backup key than the export's")
    return secret


def stretched(passphrase, protection, key_id):
    """The backup key that a passphrase gives: Argon2id (RFC 9106), 32 bytes."""
    if "salt" not in protection:
        raise Refused("no passphrase protects it")
    salt, (memory, passes, lanes) = protection["salt"], protection["costs"]
    if memory > 1 << 20 or memory * passes > 1 << 22 or lanes > 64:
        raise Refused("it asks for more memory or time than any of ours")
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        secret = Argon2id(
            salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory
        ).derive(passphrase)
    except ImportError:
        from argon2.low_level import Type, hash_secret_raw

        secret = hash_secret_raw(passphrase, salt, passes, memory, lanes, 32, Type.ID)
    if hmac.new(secret, b"slotwarden/key-id/v1", hashlib.sha256).digest()[:16] != key_id:
        raise Refused("the passphrase is not the one of this file")
    return secret


def derive(secret, info):
    """HKDF with SHA-256, one block (RFC 5869)."""
    prk = hmac.new(b"slotwarden/backup-key/v1", secret, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def main(arguments):
    out = None
    if "--out" in arguments:
        at = arguments.index("--out")
        out = pathlib.Path(arguments[at + 1])
        del arguments[at : at + 2]
    passphrase = None
    if "--passphrase-file" in arguments:
        at = arguments.index("--passphrase-file")
        passphrase = pathlib.Path(arguments[at + 1]).read_bytes().removesuffix(b"\n")
        del arguments[at : at + 2]
    export, *records = [pathlib.Path(name).read_bytes() for name in arguments]
    about, sections = read(export)
    if passphrase is None:
        secret = backup_key(records, about["key_id"])
    else:
        secret = stretched(passphrase, about["protection"], about["key_id"])
    unwrap(sections, secret, out)


def unwrap(sections, secret, out):
    """Checks the MACs and unwraps every key; prints what there is."""
    opened = 0
    for found in sections:
        mak = derive(secret, b"slotwarden/mak/v1" + found["uid"])
        if not hmac.compare_digest(hmac.new(mak, found["message"], hashlib.sha256).digest(), found["mac"]):
            raise Refused(f"the MAC of {found['name']} is wrong: nothing of it may be used")
    for found in sections:
        kek = derive(secret, b"slotwarden/kwp/v1" + found["uid"])
        for item in found["entries"]:
            name = f"{found['name']}: {CLASSES[item['class']]} {item['label'].decode(errors='replace')} {item['id'].hex()}"
            if not item["wrapped"]:
                print(name)
                continue
            try:
                key = aes_key_unwrap_with_padding(kek, item["wrapped"])
            except InvalidUnwrap as wrong:
                raise Refused(f"{name} cannot be unwrapped") from wrong
            opened += 1
            public = ""
            if CLASSES[item["class"]] == "private":
                # SoftHSM pads what it wraps with zeros; DER says itself where it ends.
                private = serialization.load_der_private_key(key[: der_length(key)], None)
                spki = private.public_key().public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
                public = f", public key {hashlib.sha256(spki).hexdigest()[:16]}"
            print(f"{name}{public}")
            if out:
                path = out / f"{found['name']}-{item['index']}"
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(key)
        if found["part"]:
            part = b"".join(found["part"])
            print(f"{found['name']}: vendor part of {len(part)} bytes: only the vendor's program takes it back")
            if out:
                path = out / f"{found['name']}.vendor"
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(part)
        for item in found["left_out"]:
            print(f"{found['name']}: NOT in it: {item['label'].decode(errors='replace')} {item['id'].hex()}: {item['why']}")
    print(f"{opened} keys opened")


def der_length(data):
    """Bytes of the DER value that begins here."""
    if data[1] < 0x80:
        return 2 + data[1]
    count = data[1] & 0x7F
    return 2 + count + int.from_bytes(data[2 : 2 + count], "big")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError, UnicodeDecodeError, ValueError, IndexError) as refused:
        sys.exit(f"refused: {refused}")
