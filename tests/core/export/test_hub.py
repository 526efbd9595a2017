"""Publishing on the hub, against a server on this machine that plays its API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
from hub_server import TOKEN, FakeHub

from drirl_core.checks.gates import Gate
from drirl_core.checks.verdicts import Verdict
from drirl_core.errors import ArtifactError, ConfigError
from drirl_core.export.hub import Hub, HubError, require_publishable
from drirl_core.export.licences import Licence

APACHE = Licence("apache-2.0", (Path("LICENSE"),))
FAILED = (Gate("promotion_candidate", "refusal_floor", Verdict(False, "refuses 3 %")),)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub_server.running() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "export"
    (made / "adapter").mkdir(parents=True)
    (made / "README.md").write_text("---\nlicense: apache-2.0\n---\n# mine\n", encoding="utf-8")
    (made / "drirl.json").write_text("{}", encoding="utf-8")
    (made / "model.safetensors").write_bytes(bytes(range(256)))
    (made / "adapter" / "adapter_model.safetensors").write_bytes(b"12")
    return made


def test_everything_comes_in_one_commit(hub: FakeHub, folder: Path) -> None:
    assert Hub(hub.url).upload(folder, "me/mine", True, "policy 1") == f"{hub.url}/me/mine"
    found = hub.repositories["me/mine"]
    assert found["private"] is True
    assert set(found["files"]) == {
        ".gitattributes", "README.md", "drirl.json", "model.safetensors", "adapter/adapter_model.safetensors",
    }  # fmt: skip
    assert found["files"]["model.safetensors"] == bytes(range(256))
    assert hub.commits == ["policy 1"]


def test_a_later_policy_replaces_the_files_of_the_earlier_one(hub: FakeHub, folder: Path) -> None:
    Hub(hub.url).upload(folder, "me/mine", True, "first")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    Hub(hub.url).upload(folder, "me/mine", True, "second")
    files = hub.repositories["me/mine"]["files"]
    assert "model.safetensors" not in files and "model-00001-of-00001.safetensors" in files
    assert b"mit" in files["README.md"]
    assert hub.commits == ["first", "second"]


def test_a_public_repository_is_public(hub: FakeHub, folder: Path) -> None:
    Hub(hub.url).upload(folder, "me/mine", False, "first")
    assert hub.repositories["me/mine"]["private"] is False


def test_repositories_of_something_else_are_left_alone(hub: FakeHub, folder: Path) -> None:
    hub.repositories["me/mine"] = {"private": True, "files": {"thesis.pdf": b"1"}}
    with pytest.raises(ArtifactError, match=r"holds something else \(thesis\.pdf\); name another repository"):
        Hub(hub.url).upload(folder, "me/mine", True, "x")
    assert set(hub.repositories["me/mine"]["files"]) == {"thesis.pdf"}


def test_a_private_policy_does_not_go_into_a_public_repository(hub: FakeHub, folder: Path) -> None:
    hub.repositories["me/mine"] = {"private": False, "files": {"drirl.json": b"{}"}}
    with pytest.raises(ArtifactError, match="is there and public"):
        Hub(hub.url).upload(folder, "me/mine", True, "x")
    assert hub.commits == []


def test_the_user_is_known_by_the_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Hub(hub.url).require_login() == "me"
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(HubError, match="the token was not accepted") as caught:
        Hub(hub.url).require_login()
    assert "hf_wrong" not in str(caught.value)


def test_without_a_token_the_hub_is_not_asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="run `hf auth login`, or set HF_TOKEN"):
        Hub(hub.url).require_login()
    assert hub.asked == []


def test_a_refusal_is_explained_without_the_token(hub: FakeHub, folder: Path) -> None:
    hub.refuse = 403
    with pytest.raises(HubError, match="me/mine was not published") as caught:
        Hub(hub.url).upload(folder, "me/mine", True, "x")
    assert TOKEN not in str(caught.value)


def test_a_hub_that_is_away_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(HubError, match="check the name, your network"):
        Hub("http://127.0.0.1:9").require_login()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a--b/c", r"is no name of a repository"),
        ("a/b/c", r"is no name of a repository"),
        ("mine", r"names no owner; write OWNER/mine"),
    ],
)
def test_names_are_checked(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        require_publishable(name, False, APACHE, (), "")


def test_gates_and_licence_are_checked() -> None:
    with pytest.raises(ArtifactError, match=r"1 of 1 gates fail .* refusal_floor: refuses 3 %.* --force --why TEXT"):
        require_publishable("me/mine", False, APACHE, FAILED, " ")
    require_publishable("me/mine", False, APACHE, FAILED, "red team")
    with pytest.raises(ConfigError, match="--licence FILE, or publish with --private"):
        require_publishable("me/mine", True, Licence("other", ()), (), "")
    require_publishable("me/mine", False, Licence("other", ()), (), "")
    llama = Licence("llama3.1", (Path("LICENSE"),))
    with pytest.raises(ConfigError, match="me/Llama-mine"):
        require_publishable("me/mine", False, llama, (), "")
    require_publishable("me/Llama-3.1-mine", True, llama, (), "")
