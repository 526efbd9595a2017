"""The pointer to the promoted policy: it moves completely or not at all, records each move, and can be rolled back."""

import json
import multiprocessing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.errors import ArtifactError
from drirl_core.promotion import CANDIDATE, Ledger, NotPromotedError, left_by_rollback
from drirl_core.promotion.ledger import Promotion, rollback_target
from drirl_core.store import artifacts
from drirl_core.store.artifacts import ArtifactStore

PASSED = {"gate": "kl_bound", "passed": True, "description": "fine"}
FAILED = {"gate": "over_refusal_bound", "passed": False, "description": "50.0% of the safe look-alikes refused"}


def publish(store: ArtifactStore, asset: str, files: dict[str, str], inputs: dict[str, str] | None = None) -> str:
    """Publish an artifact with these files and return its version."""
    key = artifacts.fingerprint(asset, "1", {**(inputs or {}), **files})
    with store.building(asset, key) as workspace:
        for name, text in files.items():
            (workspace.out / name).write_text(text)
        return store.publish(asset, key, workspace, details={"metadata": {}, "inputs": inputs or {}}).version


def candidate(store: ArtifactStore, name: str, benchmark: str = "first") -> str:
    """Publish a policy and its candidate; other benchmarks make another candidate of the same policy."""
    policy = publish(store, "policy_checkpoint", {"model.safetensors": name})
    evidence = {"candidate.json": json.dumps({"policy": policy}), "results.json": benchmark}
    return publish(store, CANDIDATE, evidence, {"policy_checkpoint": policy})


@pytest.fixture
def ledger(store):
    return Ledger(store)


def test_nothing_is_promoted_at_first(ledger):
    assert ledger.current() is None
    assert ledger.history() == []


def test_a_promotion_keeps_which_policy_who_when_why_and_the_gates(ledger, store):
    version = candidate(store, "a")
    moved = ledger.promote(version, by="ada@lab", why="pilot", gates=[PASSED])

    assert ledger.current() == moved
    assert (moved.action, moved.candidate, moved.by, moved.why, moved.forced) == (
        "promote",
        version,
        "ada@lab",
        "pilot",
        False,
    )
    assert store.open("policy_checkpoint", moved.policy).path.is_dir()
    assert moved.at.endswith("+00:00")
    assert list(moved.gates) == [PASSED]


def test_a_failed_gate_does_not_move_the_pointer(ledger, store):
    first = ledger.promote(candidate(store, "a"), by="ada", why="first")
    with pytest.raises(
        ArtifactError, match=r"is not promoted; over_refusal_bound: 50\.0% of the safe look-alikes refused"
    ):
        ledger.promote(candidate(store, "b"), by="ada", why="second", gates=[PASSED, FAILED])
    assert ledger.history() == [first]


def test_overruling_a_gate_is_recorded(ledger, store):
    moved = ledger.promote(candidate(store, "a"), by="ada", why="red team", gates=[FAILED], forced=True)
    assert moved.forced
    assert ledger.current().gates[0]["gate"] == "over_refusal_bound"
    assert not ledger.promote(candidate(store, "b"), by="ada", why="no need", gates=[PASSED], forced=True).forced


def test_promoting_the_promoted_candidate_again_adds_nothing(ledger, store):
    version = candidate(store, "a")
    assert ledger.promote(version, by="ada", why="first") == ledger.promote(version, by="bob", why="again")
    assert len(ledger.history()) == 1


@pytest.mark.parametrize("gone", [CANDIDATE, "policy_checkpoint"])
def test_a_missing_candidate_or_policy_cannot_be_promoted(ledger, store, gone):
    version = candidate(store, "a")
    (store.root / gone).rename(store.root / "away")
    with pytest.raises(ArtifactError, match=f"{gone} .* is not a published artifact"):
        ledger.promote(version, by="ada", why="first")
    assert ledger.current() is None


def test_rollback_returns_step_by_step_or_to_a_named_policy(ledger, store):
    a, b, c = (candidate(store, name) for name in "abc")
    for version in (a, b, c):
        ledger.promote(version, by="ada", why="better")

    assert ledger.rollback(by="bob", why="complaints").candidate == b
    assert ledger.rollback(by="bob", why="more complaints").candidate == a
    assert ledger.rollback(by="bob", why="no, the last one", to=c[:8]).candidate == c
    assert [entry.action for entry in ledger.history()] == ["promote"] * 3 + ["rollback"] * 3
    assert ledger.history()[3].why == "complaints"


def test_an_impossible_rollback_is_explained(ledger, store):
    with pytest.raises(ArtifactError, match="no policy was promoted yet"):
        ledger.rollback(by="bob", why="x")
    a = candidate(store, "a")
    ledger.promote(a, by="ada", why="first")
    with pytest.raises(ArtifactError, match="the only policy that was ever promoted"):
        ledger.rollback(by="bob", why="x")
    ledger.promote(candidate(store, "b"), by="ada", why="second")
    with pytest.raises(
        ArtifactError, match="'zzz' names none of the policies that were promoted before; choose one of"
    ):
        ledger.rollback(by="bob", why="x", to="zzz")
    (store.root / CANDIDATE / a).rename(store.root / "away")
    with pytest.raises(ArtifactError, match="is not a published artifact"):
        ledger.rollback(by="bob", why="x")
    assert ledger.current().why == "second"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"action": "promote"}', '{"x": 1, "gates": []}'])
def test_a_damaged_ledger_is_an_error_and_never_an_empty_one(ledger, store, text):
    version = candidate(store, "a")
    ledger.promote(version, by="ada", why="first")
    entry = store.root / "promotions" / "000001.json"
    entry.write_text(text)
    with pytest.raises(ArtifactError, match=r"promotions cannot be read .* restore it from a backup"):
        ledger.promote(version, by="ada", why="again")
    assert entry.read_text() == text


def test_a_missing_entry_is_an_error(ledger, store):
    for name in "abc":
        ledger.promote(candidate(store, name), by="ada", why=name)
    (store.root / "promotions" / "000002.json").unlink()
    with pytest.raises(ArtifactError, match=r"000002\.json is missing among the entries of .*promotions.* restore it"):
        ledger.current()


def test_a_full_disk_leaves_the_ledger_intact(ledger, store, monkeypatch):
    first = ledger.promote(candidate(store, "a"), by="ada", why="first")
    second = candidate(store, "b")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match=r"the promoted policy stays what it was: the disk of .* is full"):
        ledger.promote(second, by="ada", why="second")
    assert ledger.history() == [first]
    assert [path.name for path in (store.root / "promotions").iterdir()] == ["000001.json"]


def test_gates_evaluated_before_another_promotion_do_not_count(ledger, store):
    a, b, c = (candidate(store, name) for name in "abc")
    before = ledger.current()
    ledger.promote(a, by="ada", why="first", judged_after=before)
    with pytest.raises(
        NotPromotedError, match=rf"candidate {b} is not promoted: .* before ada moved to .*; evaluate them again"
    ):
        ledger.promote(b, by="bob", why="at the same time", judged_after=before)
    assert ledger.promote(a, by="bob", why="the same one", judged_after=before).by == "ada"
    assert ledger.promote(b, by="bob", why="asked again", judged_after=ledger.current()).candidate == b
    assert ledger.promote(c, by="bob", why="red team", judged_after=before, forced=True).candidate == c


def _promote(root, version):
    Ledger(ArtifactStore(root)).promote(version, by="a process", why=version)


def test_simultaneous_promotions_are_all_recorded(ledger, store):
    versions = [candidate(store, str(i)) for i in range(6)]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_promote, [(store.root, version) for version in versions])
    assert sorted(entry.candidate for entry in ledger.history()) == sorted(versions)


def test_a_rollback_changes_the_policy_not_only_its_candidate(ledger, store):
    a, b, b_second, c = (
        candidate(store, "a"),
        candidate(store, "b"),
        candidate(store, "b", "second"),
        candidate(store, "c"),
    )
    policies = [ledger.promote(version, by="ada", why="better").policy for version in (a, b, b_second)]
    assert len(ledger.history()) == 3  # another candidate of the promoted policy is a move of its own

    assert ledger.rollback(by="bob", why="complaints").policy == policies[0]
    ledger.promote(c, by="ada", why="better")
    assert ledger.rollback(by="bob", why="complaints", to=policies[1][:8]).candidate == b_second
    assert ledger.rollback(by="bob", why="the older numbers", to=a[:8]).candidate == a


def test_a_second_candidate_of_the_same_policy_is_no_rollback_target(ledger, store):
    for version in (candidate(store, "a"), candidate(store, "a", "second")):
        ledger.promote(version, by="ada", why="better")
    with pytest.raises(ArtifactError, match="the only policy that was ever promoted"):
        ledger.rollback(by="bob", why="x")
    with pytest.raises(ArtifactError, match="the only policy that was ever promoted"):
        ledger.rollback(by="bob", why="x", to=candidate(store, "a"))


def played(moves: str) -> list[Promotion]:
    """Return the history of `a` for a promotion of policy a and `<a` for a rollback to it."""
    return [
        Promotion("rollback" if "<" in move else "promote", f"c{number}", move[-1], str(number), "", "")
        for number, move in enumerate(moves.split())
    ]


@pytest.mark.parametrize(
    ("moves", "policy", "by"),
    [
        ("a b <a", "b", 2),
        ("a b <a", "a", None),
        ("a b <a c", "b", 2),
        ("a b c <a", "b", 3),
        ("a b <a b", "b", None),
        ("a b <a c <b", "b", None),
        ("a b <a <b", "a", 3),
        ("b a b <a", "b", 3),
        ("a b", "c", None),
        ("", "a", None),
    ],
)
def test_a_policy_left_by_a_rollback_stays_so_until_the_pointer_returns(moves, policy, by):
    history = played(moves)
    assert left_by_rollback(history, policy) is (None if by is None else history[by])


MOVES = st.sampled_from(["back", *(f"promote {policy} {suite}" for policy in "abcd" for suite in "12")])


@given(st.lists(MOVES, max_size=20))
def test_a_rollback_always_ends_at_another_promoted_policy(moves):
    history: list[Promotion] = []
    for move in moves:
        word, *made = move.split()
        version = "".join(made)
        if word == "promote" and not (history and history[-1].candidate == version):
            history.append(Promotion("promote", version, made[0], "", "", ""))
        if word == "back" and len({entry.policy for entry in history}) > 1:
            before, target = history[-1].policy, rollback_target(history, None)
            assert target.policy != before
            assert target.candidate in {entry.candidate for entry in history if entry.action == "promote"}
            history.append(Promotion("rollback", target.candidate, target.policy, "", "", ""))
            assert left_by_rollback(history, before) is history[-1]
            assert left_by_rollback(history, target.policy) is None


def test_the_ledger_of_an_object_store_is_the_same_on_every_machine(tmp_path):
    here, there = (ArtifactStore("memory://promotions/here", tmp_path / name) for name in ("mirror", "other_mirror"))
    first = Ledger(here).promote(candidate(here, "a"), by="ada", why="first")

    assert Ledger(there).current() == first
    second = Ledger(there).promote(candidate(there, "b"), by="bob", why="second")
    assert Ledger(here).history() == [first, second]
    assert Ledger(here).rollback(by="ada", why="complaints").policy == first.policy
