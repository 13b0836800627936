"""age files: those of others are read, ours are whole or refused, and nothing passes that the specification forbids."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
from collections.abc import Callable, Sequence
from typing import Final

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from app.domain import bech32
from app.domain.errors import BackupDamaged, BackupError, BackupLocked, NotABackup
from app.domain.secrets import SecretText
from app.infrastructure.backup.age import CHUNK, EncryptingWriter, decrypted, read_header
from app.infrastructure.backup.age_keys import (
    Identity,
    Passphrase,
    Recipient,
    X25519Identity,
    X25519Recipient,
    identities,
)
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.crypto.derive import hkdf_sha256

RANDOM = SystemRandomness()
# The test identity of the C2SP test vectors for age (c2sp.org/CCTV/age), and the one in their file `x25519`.
SECRET = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0"
VECTOR_SECRET = "AGE-SECRET-KEY-1XMWWC06LY3EE5RYTXM9MFLAZ2U56JJJ36S0MYPDRWSVLUL66MV4QX3S7F6"
IDENTITY = X25519Identity.parse(SECRET)
PASSWORD = "correct horse battery staple"
CHEAP = Passphrase(SecretText(PASSWORD), work_factor=10)


def encrypt(plain: bytes, *recipients: Recipient) -> bytes:
    file = io.BytesIO()
    writer = EncryptingWriter(file, recipients or (IDENTITY.recipient,), RANDOM)
    writer.write(plain)
    writer.finish()
    return file.getvalue()


def decrypt(file: bytes, *by: Identity) -> bytes:
    return b"".join(decrypted(io.BytesIO(file), by or (IDENTITY,)))


class Vector:
    """Builds a file as the generator of the C2SP vectors does, from its keystream, with nothing of our own code."""

    file_key = b"YELLOW SUBMARINE"

    def __init__(self) -> None:
        self._stream = Cipher(algorithms.ChaCha20(b"TEST RANDOMNESS TEST RANDOMNESS!", bytes(16)), None).encryptor()
        self.file = b"age-encryption.org/v1\n"
        self.identity = base64_free(SECRET)
        self._counter = 0

    def random(self, size: int) -> bytes:
        return self._stream.update(bytes(size))

    def line(self, *words: str) -> Vector:
        self.file += " ".join(words).encode() + b"\n"
        return self

    def body(self, body: bytes) -> Vector:
        text = b64(body)
        for start in range(0, len(text) + 1, 64):
            self.line(text[start : start + 64])
        return self

    def aead(self, key: bytes, file_key: bytes | None = None) -> Vector:
        return self.body(ChaCha20Poly1305(key).encrypt(bytes(12), file_key or self.file_key, None))

    def x25519(
        self, *more: str, share: bytes | None = None, kind: str = "X25519", file_key: bytes | None = None
    ) -> Vector:
        ours = X25519PrivateKey.from_private_bytes(self.identity)
        share = share or X25519PrivateKey.from_private_bytes(self.random(32)).public_key().public_bytes_raw()
        try:
            secret = ours.exchange(X25519PublicKey.from_public_bytes(share[:32]))
        except ValueError:
            secret = bytes(32)
        salt = share + ours.public_key().public_bytes_raw()
        key = hkdf_sha256(secret, salt=salt, info=b"age-encryption.org/v1/X25519", length=32)
        return self.line("->", kind, b64(share), *more).aead(key, file_key)

    def scrypt(self, work_factor: str = "10", salt: bytes | None = None, *more: str, kind: str = "scrypt") -> Vector:
        salt = self.random(16) if salt is None else salt
        n = 1 << min(int(work_factor, 0) if work_factor.isdigit() and work_factor[0] != "0" else 10, 10)
        key = hashlib.scrypt(PASSWORD.encode(), salt=b"age-encryption.org/v1/scrypt" + salt, n=n, r=8, p=1, dklen=32)
        return self.line("->", kind, b64(salt), *([work_factor] if work_factor else []), *more).aead(key)

    def mac(self, spoil: Callable[[str], str] = lambda text: text) -> Vector:
        key = hkdf_sha256(self.file_key, salt=None, info=b"header", length=32)
        return self.line("---", spoil(b64(hmac.digest(key, self.file + b"---", "sha256"))))

    def nonce(self) -> Vector:
        nonce = self.random(16)
        self._payload = ChaCha20Poly1305(hkdf_sha256(self.file_key, salt=nonce, info=b"payload", length=32))
        self.file += nonce
        return self

    def chunked(self, *chunks: bytes, last: bool = False) -> bytes:
        self.mac().nonce()
        for number, chunk in enumerate(chunks, 1):
            self.chunk(chunk, last=last and number == len(chunks))
        return self.file

    def chunk(self, plain: bytes, *, last: bool = False) -> Vector:
        self.file += self._payload.encrypt(self._counter.to_bytes(11, "big") + bytes([last]), plain, None)
        self._counter += 1
        return self

    def done(self) -> bytes:
        return self.mac().payload()

    def payload(self, plain: bytes = b"age") -> bytes:
        return self.nonce().chunk(plain, last=True).file


def base64_free(identity: str) -> bytes:
    return bech32.decode(identity, "age-secret-key-")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


V: Final = Vector
FULL: Final = bytes(CHUNK)
LOW_ORDER: Final = bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157")


def not_canonical(text: str) -> str:
    """The same value with the next character of the alphabet as its last: a spare bit is set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


def test_the_file_key_of_the_public_vector_is_found() -> None:
    # c2sp.org/CCTV/age, `x25519`: its header, and the file key that it names.
    header = read_header(
        io.BytesIO(
            b"age-encryption.org/v1\n"
            b"-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\n"
            b"EmECAEcKN+n/Vs9SbWiV+Hu0r+E8R77DdWYyd83nw7U\n"
            b"--- Vn+54jqiiUCE+WZcEVY3f1sqHjlu/z1LCQ/T7Xm7qI0\n"
        )
    )
    assert header.file_key([X25519Identity.parse(VECTOR_SECRET)]) == bytes.fromhex("59454c4c4f57205355424d4152494e45")


# Named and made as the C2SP vectors of these names.
OPENING: dict[str, Callable[[], bytes]] = {
    "x25519_grease": lambda: V().line("->", "grease").body(b"").x25519().line("->", "g", "1").body(b"x" * 100).done(),
    "x25519_multiple_recipients": lambda: V().line("->", "X25519", b64(V().random(32))).body(bytes(32)).x25519().done(),
    "stanza_long_body_line_full": lambda: V().line("->", "stanza").body(b"A" * 96).x25519().done(),
    "scrypt": lambda: V().scrypt().done(),
    "stream_no_final_is_last_full": lambda: (
        V().x25519().mac().nonce().chunk(bytes(CHUNK)).chunk(bytes(CHUNK), last=True).file
    ),
    "empty": lambda: V().x25519().mac().payload(b""),
}
REFUSED: dict[str, tuple[type[BackupError], Callable[[], bytes]]] = {
    "version_unsupported": (NotABackup, lambda: V().x25519().mac().payload().replace(b"/v1\n", b"/v1234\n", 1)),
    "header_crlf": (BackupDamaged, lambda: V().x25519().mac().payload().replace(b"\n--- ", b"\r\n--- ", 1)),
    "hmac_bad": (BackupDamaged, lambda: V().x25519().mac(lambda _: b64(bytes(32))).payload()),
    "hmac_garbage": (BackupDamaged, lambda: V().x25519().mac(lambda text: f"{text}AAA").payload()),
    "hmac_missing": (BackupDamaged, lambda: V().x25519().line("---").payload()),
    "hmac_extra_space": (BackupDamaged, lambda: V().x25519().mac(lambda text: f" {text}").payload()),
    "hmac_no_space": (BackupDamaged, lambda: V().x25519().mac().payload().replace(b"--- ", b"---", 1)),
    "hmac_trailing_space": (BackupDamaged, lambda: V().x25519().mac(lambda text: f"{text} ").payload()),
    "hmac_not_canonical": (BackupDamaged, lambda: V().x25519().mac(not_canonical).payload()),
    "hmac_truncated": (BackupDamaged, lambda: V().x25519().mac(lambda text: text[:22]).payload()),
    "no_stanza": (BackupDamaged, lambda: V().done()),
    "stanza_bad_start": (BackupDamaged, lambda: V().line("-> X").body(b"").line("!> X").body(b"").x25519().done()),
    "stanza_empty_argument": (BackupDamaged, lambda: V().line("->", "X", "", "Y").body(b"").x25519().done()),
    "stanza_no_arguments": (BackupDamaged, lambda: V().line("->", "").body(b"").x25519().done()),
    "stanza_not_ascii": (BackupDamaged, lambda: V().line("->", "é").body(b"").x25519().done()),
    "stanza_base64_padding": (BackupDamaged, lambda: V().line("->", "X").line("QQ==").x25519().done()),
    "stanza_missing_final_line": (BackupDamaged, lambda: V().line("->", "X").line("A" * 64).x25519().done()),
    "stanza_long_line": (BackupDamaged, lambda: V().line("->", "X").line("A" * 68).x25519().done()),
    "stanza_not_canonical": (BackupDamaged, lambda: V().line("->", "X").line("QR").x25519().done()),
    "x25519_no_match": (BackupLocked, lambda: V().line("->", "X25519", b64(b"\7" * 32)).body(bytes(32)).done()),
    "x25519_lowercase": (BackupLocked, lambda: V().x25519(kind="x25519").done()),
    "x25519_extra_argument": (BackupDamaged, lambda: V().x25519("1234").done()),
    "x25519_long_share": (BackupDamaged, lambda: V().x25519(share=b"\7" * 33).done()),
    "x25519_short_share": (BackupDamaged, lambda: V().line("->", "X25519", b64(b"\7" * 31)).body(bytes(32)).done()),
    "x25519_identity": (BackupDamaged, lambda: V().x25519(share=bytes(32)).done()),
    "x25519_low_order": (BackupDamaged, lambda: V().x25519(share=LOW_ORDER).done()),
    "x25519_long_file_key": (BackupDamaged, lambda: V().x25519(file_key=b"A LONGER YELLOW SUBMARINE").done()),
    "x25519_not_canonical_share": (
        BackupDamaged,
        lambda: V().line("-> X25519", not_canonical(b64(bytes(32)))).body(bytes(32)).done(),
    ),
    "scrypt_and_x25519": (BackupDamaged, lambda: V().x25519().scrypt().done()),
    "scrypt_double": (BackupDamaged, lambda: V().scrypt().scrypt().done()),
    "scrypt_extra_argument": (BackupDamaged, lambda: V().scrypt("10", None, "1").done()),
    "scrypt_uppercase": (BackupLocked, lambda: V().scrypt(kind="Scrypt").done()),
    "scrypt_salt_short": (BackupDamaged, lambda: V().scrypt("10", bytes(15)).done()),
    "scrypt_salt_long": (BackupDamaged, lambda: V().scrypt("10", bytes(17)).done()),
    "scrypt_salt_missing": (BackupDamaged, lambda: V().line("->", "scrypt", "10").body(bytes(32)).done()),
    "scrypt_work_factor_23": (BackupLocked, lambda: V().scrypt("23").done()),
    "scrypt_work_factor_hex": (BackupDamaged, lambda: V().scrypt("0xa").done()),
    "scrypt_work_factor_missing": (BackupDamaged, lambda: V().scrypt("").done()),
    "scrypt_work_factor_negative": (BackupDamaged, lambda: V().scrypt("-10").done()),
    "scrypt_work_factor_leading_plus": (BackupDamaged, lambda: V().scrypt("+10").done()),
    "scrypt_work_factor_leading_zero": (BackupDamaged, lambda: V().scrypt("010").done()),
    "scrypt_work_factor_overflow": (BackupDamaged, lambda: V().scrypt("18446744073709551626").done()),
    "scrypt_work_factor_zero": (BackupDamaged, lambda: V().scrypt("0").done()),
    "stream_no_nonce": (BackupDamaged, lambda: V().x25519().mac().file),
    "stream_short_nonce": (BackupDamaged, lambda: V().x25519().mac().file + bytes(15)),
    "stream_no_chunks": (BackupDamaged, lambda: V().x25519().mac().nonce().file),
    "stream_no_final": (BackupDamaged, lambda: V().x25519().mac().nonce().chunk(b"age").file),
    "stream_no_final_full": (BackupDamaged, lambda: V().x25519().chunked(FULL)),
    "stream_empty_last_chunk": (
        BackupDamaged,
        lambda: V().x25519().chunked(FULL, b"", last=True),
    ),
    "stream_last_chunk_not_last": (
        BackupDamaged,
        lambda: V().x25519().mac().nonce().chunk(FULL, last=True).chunk(b"age", last=True).file,
    ),
    "stream_short_second_chunk": (
        BackupDamaged,
        lambda: V().x25519().chunked(FULL) + bytes(12),
    ),
    "stream_trailing_garbage": (BackupDamaged, lambda: V().x25519().mac().payload() + b"\0"),
    "armored": (NotABackup, lambda: b"-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n"),
    "empty_file": (NotABackup, lambda: b""),
    "another_file": (NotABackup, lambda: b"SQLite format 3\0" + bytes(200)),
    "endless_header": (BackupDamaged, lambda: b"age-encryption.org/v1\n-> X " + b"A" * 1_000_000),
    "endless_body": (BackupDamaged, lambda: b"age-encryption.org/v1\n-> X\n" + (b"A" * 64 + b"\n") * 20_000),
    "endless_stanzas": (BackupDamaged, lambda: b"age-encryption.org/v1\n" + b"-> X\n\n" * 200_000),
}


@pytest.mark.parametrize("name", OPENING)
def test_files_as_the_specification_has_them_open(name: str) -> None:
    decrypt(OPENING[name](), IDENTITY, CHEAP)


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_the_specification_forbids_are_refused_with_a_type(name: str) -> None:
    refusal, file = REFUSED[name]
    with pytest.raises(refusal):
        decrypt(file(), IDENTITY, CHEAP)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_another_implementation_reads_what_was_written_here_and_the_other_way_round(size: int) -> None:
    plain, theirs = bytes(place % 251 for place in range(size)), pyrage.x25519.Identity.from_str(SECRET)
    assert pyrage.decrypt(encrypt(plain), [theirs]) == plain
    assert decrypt(pyrage.encrypt(plain, [theirs.to_public()])) == plain


def test_another_implementation_reads_a_passphrase_file() -> None:
    assert pyrage.passphrase.decrypt(encrypt(b"content", CHEAP), PASSWORD) == b"content"


def test_a_file_for_several_recipients_opens_for_each() -> None:
    others = [pyrage.x25519.Identity.generate() for _ in range(3)]
    file = encrypt(b"content", *(X25519Recipient.parse(str(each.to_public())) for each in others))
    for each in others:
        assert decrypt(file, X25519Identity.parse(str(each))) == b"content"


def test_every_cut_and_every_flipped_bit_is_refused() -> None:
    file = encrypt(b"content" * 20)
    for size in range(len(file)):
        with pytest.raises(BackupError):
            decrypt(file[:size])
    for place in range(len(file)):
        changed = bytearray(file)
        changed[place] ^= 1 << place % 8
        with pytest.raises(BackupError):
            decrypt(bytes(changed))


def test_chunks_in_another_order_are_refused() -> None:
    file = encrypt(b"".join(bytes([number]) * CHUNK for number in range(3)))
    begin, size = len(file) - 3 * (CHUNK + 16), CHUNK + 16
    chunks = [file[begin + number * size :][:size] for number in range(3)]
    assert file == file[:begin] + b"".join(chunks)
    for order in ((1, 0, 2), (0, 2, 1), (0, 2), (0, 0, 1, 2), (0, 1)):
        with pytest.raises(BackupDamaged):
            decrypt(file[:begin] + b"".join(chunks[number] for number in order))


@pytest.mark.parametrize("pieces", [[1] * 3000, [CHUNK, 1, CHUNK], [CHUNK * 2 + 5], [0, 0]])
def test_the_file_does_not_depend_on_how_it_was_written(pieces: Sequence[int]) -> None:
    file, size = io.BytesIO(), sum(pieces)
    plain = bytes(place % 251 for place in range(size))
    writer, start = EncryptingWriter(file, [IDENTITY.recipient], RANDOM), 0
    for piece in pieces:
        writer.write(plain[start : start + piece])
        start += piece
    writer.finish()
    assert decrypt(file.getvalue()) == plain


def test_the_error_says_which_key_is_needed() -> None:
    other = X25519Identity.parse(VECTOR_SECRET)
    for file, by, said in (
        (encrypt(b"x"), [], "--identity-file"),
        (encrypt(b"x"), [CHEAP], "--identity-file"),
        (encrypt(b"x"), [other], "the recipient it was made for"),
        (encrypt(b"x", CHEAP), [], "--passphrase-file"),
        (encrypt(b"x", CHEAP), [Passphrase(SecretText("wrong"))], "the one that it was made with"),
        (V().line("->", "ssh-ed25519", "abc").body(b"x").done(), [other], "ssh-ed25519"),
    ):
        with pytest.raises(BackupLocked, match=said):
            b"".join(decrypted(io.BytesIO(file), by))


def test_the_kinds_of_keys_can_be_read_without_one() -> None:
    assert read_header(io.BytesIO(encrypt(b"x"))).kinds == ("X25519",)
    assert read_header(io.BytesIO(encrypt(b"x", CHEAP))).kinds == ("scrypt",)


def test_a_passphrase_is_never_beside_another_recipient() -> None:
    with pytest.raises(ValueError, match="alone"):
        EncryptingWriter(io.BytesIO(), [CHEAP, IDENTITY.recipient], RANDOM)
    with pytest.raises(ValueError, match="alone"):
        EncryptingWriter(io.BytesIO(), [], RANDOM)
    with pytest.raises(ValueError, match="empty"):
        Passphrase(SecretText(""))


def test_a_passphrase_is_protected_as_much_as_memory_allows() -> None:
    file = encrypt(b"x", Passphrase(SecretText(PASSWORD)))
    assert read_header(io.BytesIO(file)).stanzas[0].arguments[1] == "16"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begin with age1"),
        ("age1", "a character"),
        (SECRET, "is an identity"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA", "upper and lower"),
        (str(IDENTITY.recipient)[:-1] + "q", "checksum"),
        (str(IDENTITY.recipient).replace("1", "1b", 1), "a character"),
        (bech32.encode("age", bytes(31)), "length"),
        (bech32.encode("agf", bytes(32)), "begin with age1"),
        (str(IDENTITY.recipient)[:20] + str(IDENTITY.recipient)[20:].upper(), "upper and lower"),
    ],
)
def test_a_malformed_recipient_is_refused_with_its_fault(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        X25519Recipient.parse(text)
    assert "EGTZVF" not in str(refused.value)


def test_recipients_are_read_in_either_case() -> None:
    text = str(IDENTITY.recipient)
    assert str(X25519Recipient.parse(text.upper())) == text == str(pyrage.x25519.Identity.from_str(SECRET).to_public())


def test_an_identity_file_has_comments_and_several_identities() -> None:
    text = f"# created: 2026-11-30\n# public key: age1…\n\n{SECRET}\r\n  {VECTOR_SECRET}  \n"
    assert [str(each.recipient) for each in identities(text)] == [
        str(IDENTITY.recipient),
        str(X25519Identity.parse(VECTOR_SECRET).recipient),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# nothing\n", "no identity"),
        ("x\n" + SECRET, "line 1"),
        (SECRET[:-1] + "Q", "line 1: is mistyped"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "SSH"),
        ("AGE-PLUGIN-YUBIKEY-1QQQQ", "plugin"),
        ("age-encryption.org/v1", "encrypted itself"),
    ],
)
def test_a_malformed_identity_file_is_refused_without_quoting_it(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        identities(text)
    assert SECRET[20:40] not in str(refused.value)


def test_nothing_shows_a_secret() -> None:
    for each in (IDENTITY, CHEAP):
        assert SECRET[20:] not in repr(each)
        assert PASSWORD not in repr(vars(each))
