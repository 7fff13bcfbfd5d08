"""Encryption of secrets: any text is a key, several keys read, the first one writes, wrong ones say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import ConfigError
from eventproc.service.vault import Vault


@given(key=st.text(min_size=1).filter(lambda key: key.strip(", \n\r\t")), value=st.text(min_size=1))
def test_any_text_is_a_key_and_any_text_a_value(key, value):
    key = key.encode(errors="replace").decode()
    value = value.encode(errors="replace").decode()
    if not key.replace(",", "").strip():
        return
    encrypted = Vault(lambda: key).encrypt(1, "A", value)
    assert Vault(lambda: key).decrypt(1, "A", encrypted) == value
    assert len(value) < 4 or value.encode() not in encrypted


def test_the_first_key_encrypts_and_all_decrypt():
    old = Vault(lambda: "old").encrypt(1, "A", "value")
    both = Vault(lambda: " new , old\n")
    assert both.decrypt(1, "A", old) == "value"
    assert Vault(lambda: "new").decrypt(1, "A", both.encrypt(1, "A", "value")) == "value"


def test_a_wrong_key_names_the_setting_and_the_secret_but_neither_key_nor_value():
    encrypted = Vault(lambda: "the-right-key").encrypt(1, "TOKEN", "the-value")
    with pytest.raises(ConfigError, match=r"'TOKEN' can not be decrypted.*EVENTPROC_SECRET_KEY") as caught:
        Vault(lambda: "the-wrong-key").decrypt(1, "TOKEN", encrypted)
    for word in ("the-right-key", "the-wrong-key", "the-value"):
        assert word not in str(caught.value)


@pytest.mark.parametrize("text", ["", " , \n"])
def test_no_key_at_all_names_the_setting(text):
    with pytest.raises(ConfigError, match="EVENTPROC_SECRET_KEY"):
        Vault(lambda: text).encrypt(1, "A", "value")


@pytest.mark.parametrize(("user", "name"), [(2, "A"), (1, "B")])
def test_a_value_belongs_to_its_owner_and_its_name(user, name):
    vault = Vault.random()
    with pytest.raises(ConfigError, match="changed the database"):
        vault.decrypt(user, name, vault.encrypt(1, "A", "value"))


def test_damaged_bytes_are_refused():
    vault = Vault.random()
    encrypted = bytearray(vault.encrypt(1, "A", "value"))
    encrypted[40] ^= 1
    with pytest.raises(ConfigError, match="can not be decrypted"):
        vault.decrypt(1, "A", bytes(encrypted))
