"""Sub-keys: no two uses share one."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.derive import Derivation, Label, derive, encode_tuple, hkdf_sha256

ROOT = Path(__file__).resolve().parents[2]
MATERIAL = SecretBytes(bytes(range(32)))
PARTS = st.lists(st.binary(max_size=8), max_size=4)


def test_no_salt_is_an_empty_salt() -> None:
    assert hkdf_sha256(b"key", salt=None, info=b"", length=32) == hkdf_sha256(b"key", salt=b"", info=b"", length=32)


def test_a_tuple_is_each_length_and_then_the_bytes() -> None:
    assert encode_tuple("é", b"", b"\x01\x02") == bytes.fromhex("00000002c3a9" + "00000000" + "000000020102")


@given(PARTS, PARTS)
def test_different_tuples_are_never_encoded_alike(one: list[bytes], other: list[bytes]) -> None:
    assert (encode_tuple(*one) == encode_tuple(*other)) == (one == other)


def test_text_that_no_encoder_takes_still_has_an_encoding_of_its_own() -> None:
    assert encode_tuple("\ud800") != encode_tuple("\ud801")


def test_every_label_gives_another_key() -> None:
    assert len({derive(MATERIAL, label) for label in Label}) == len(Label)


def test_context_gives_another_key_and_cannot_slide_between_its_parts() -> None:
    contexts: list[tuple[str, ...]] = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("", "ab"), ("ab", "")]
    assert len({derive(MATERIAL, Label.MAC, *context) for context in contexts}) == len(contexts)


def test_a_fingerprint_is_16_hex_digits_that_depend_on_key_and_material() -> None:
    derivation = Derivation()
    fingerprints = {
        derivation.fingerprint(name, material) for name in KeyName for material in (MATERIAL, SecretBytes(b"other"))
    }
    assert len(fingerprints) == 2 * len(KeyName)
    assert all(len(each) == 16 and bytes.fromhex(each) for each in fingerprints)


def test_a_fingerprint_never_changes() -> None:
    """It stands in the rows of every install; computed here from the words of docs/envelope.md."""
    info = encode_tuple("keyhall/v1", "fingerprint", "AES_KEY")
    expected = hkdf_sha256(bytes(range(32)), salt=None, info=info, length=8).hex()
    assert Derivation().fingerprint(KeyName.AES_KEY, MATERIAL) == expected == "fb76401229328589"


def test_a_mac_depends_on_key_label_and_every_part() -> None:
    derivation = Derivation()
    other = SecretBytes(bytes(32))
    macs = {
        derivation.mac(MATERIAL, "attempts", b"a"),
        derivation.mac(other, "attempts", b"a"),
        derivation.mac(MATERIAL, "idempotency", b"a"),
        derivation.mac(MATERIAL, "attempts", b"b"),
        derivation.mac(MATERIAL, "attempts", b"a", b""),
        derivation.mac(MATERIAL, "attempts"),
    }
    assert len(macs) == 6
    assert all(len(mac) == 32 for mac in macs)


def test_a_service_cannot_reach_another_use_by_naming_its_label() -> None:
    """What services call ``fernet`` is not the key of Fernet."""
    mac = Derivation().mac(MATERIAL, "fernet", b"")
    assert mac != derive(MATERIAL, Label.FERNET) != derive(MATERIAL, Label.MAC, "fernet")


def _labels_of_signatures(node: ast.AST, path: Path) -> set[str]:
    """The labels of what `app.services.authentication.signing` signs, which hands them on to ``.mac(...)``."""
    if not isinstance(node, ast.Call) or path.name == "signing.py":
        return set()
    called = ast.unparse(node.func).removeprefix("self.")
    if called not in {"_signatures.sign", "_signatures.made", "UserTexts"}:
        return set()
    named = [each.value for each in node.keywords if each.arg == "label"]
    label = named[0] if named else node.args[called.endswith("made")]
    assert isinstance(label, ast.Constant), f"{path}: a label is a constant"
    return {str(label.value)}


def _labels_of_services() -> set[str]:
    """The second argument of every call of ``.mac(...)`` and ``.chain(...)`` in the services.

    Names are looked up in their module.
    """
    labels = set()
    for path in (ROOT / "app" / "services").rglob("*.py"):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name) and node.value is not None
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"mac", "chain"}
            ):
                label = node.args[1]
                label = constants.get(label.id, label) if isinstance(label, ast.Name) else label
                assert isinstance(label, ast.Constant) or path.name == "signing.py", f"{path}: a label is a constant"
                if isinstance(label, ast.Constant):
                    labels.add(str(label.value))
            labels |= _labels_of_signatures(node, path)
    return labels


def test_every_label_is_documented_and_nothing_else_is() -> None:
    rows = [line.split("|") for line in (ROOT / "docs" / "envelope.md").read_text().splitlines()]
    table = [(cells[2].strip(" `"), cells[3].strip(" `")) for cells in rows if len(cells) == 6]
    documented = {label for label, _ in table[1:]} - {"---"}
    assert documented == {label.value for label in Label}
    assert {context for label, context in table if label == "mac"} == _labels_of_services()
