"""Secrets are hidden, and ordinary settings stay as they are."""

from __future__ import annotations

from drirl_core.redaction import HIDDEN, redact


def test_secrets_are_hidden_and_their_names_stay() -> None:
    given = {
        "api_key": "abc",
        "hub_token": "t",
        "api_key_env": "MY_KEY",
        "url": "https://me:pass@host/v1?token=xyz&page=2",
        "note": "use sk-abcdefgh12345 or hf_abcdefghijk",
        "nested": [{"password": "p"}],
    }
    assert redact(given) == {
        "api_key": HIDDEN,
        "hub_token": HIDDEN,
        "api_key_env": "MY_KEY",
        "url": f"https://{HIDDEN}@host/v1?token={HIDDEN}&page=2",
        "note": f"use {HIDDEN} or {HIDDEN}",
        "nested": [{"password": HIDDEN}],
    }


def test_ordinary_settings_are_unchanged() -> None:
    given = {
        "max_new_tokens": 48,
        "token": 3,
        "policy": "hf:org/name@main",
        "path": "/a/b",
        "url": "",
        "ratio": 0.5,
        "api_key": "",
    }
    assert redact(given) == given
