"""A user's private key, opened with other people's libraries from nothing but what the user database exports and the password:
what docs/security.md says of the formats is enough to do it."""

import hashlib
import hmac
import json

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEM = b"KEM" + (0x0020).to_bytes(2, "big")
SUITE = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x0020, 0x0001, 0x0002))
PURPOSE = b"prickle 2026-11 a user's private key"


def exported(cluster, address):
    """A user's record, as JSON."""
    for line in cluster.admin("directory", "export").splitlines():
        user = json.loads(line).get("user")
        if user and address in user["addresses"]:
            return user
    raise AssertionError(f"{address} is not in the export")


def private_key(record, password):
    """The 32 bytes of the newest private key (RFC 9180 4.1, 5.1, 7.1.3)."""
    encryption = record["encryption"]
    lock = encryption["password"]
    material = hash_secret_raw(
        password.encode(), bytes(lock["salt"]), time_cost=lock["passes"], memory_cost=lock["memory_kib"],
        parallelism=lock["lanes"], hash_len=32, type=Type.ID,
    )
    opener = _derive(material)
    assert _public(opener).hex() == lock["lock"], "another password"
    pair = encryption["pairs"][-1]
    copy = next(copy for copy in pair["copies"] if copy["lock"] == lock["lock"])
    bound = bytes.fromhex(record["id"]) + bytes.fromhex(pair["public"])
    key = _open(opener, bytes.fromhex(copy["sealed"]), bound)
    assert _public(key).hex() == pair["public"]
    return key


def _extract(suite, salt, label, material):
    return hmac.new(salt or bytes(32), b"HPKE-v1" + suite + label + material, hashlib.sha256).digest()


def _expand(suite, key, label, info, length):
    info = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()[:length]


def _derive(material):
    return _clamped(_expand(KEM, _extract(KEM, b"", b"dkp_prk", material), b"sk", b"", 32))


def _clamped(key):
    """As it lies in memory (RFC 7748 5)."""
    return bytes([key[0] & 248]) + key[1:31] + bytes([key[31] & 127 | 64])


def _public(key):
    return X25519PrivateKey.from_private_bytes(key).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _open(key, sealed, bound):
    encapsulated, ciphertext = sealed[:32], sealed[32:]
    shared = X25519PrivateKey.from_private_bytes(key).exchange(X25519PublicKey.from_public_bytes(encapsulated))
    shared = _expand(KEM, _extract(KEM, b"", b"eae_prk", shared), b"shared_secret", encapsulated + _public(key), 32)
    context = b"\x00" + _extract(SUITE, b"", b"psk_id_hash", b"") + _extract(SUITE, b"", b"info_hash", PURPOSE)
    secret = _extract(SUITE, shared, b"secret", b"")
    nonce = _expand(SUITE, secret, b"base_nonce", context, 12)
    return AESGCM(_expand(SUITE, secret, b"key", context, 32)).decrypt(nonce, ciphertext, bound)
