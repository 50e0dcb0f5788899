"""Parameters: whose value wins, which values fit, and that nobody sees a secret one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agents.masks import mask, to_mask
from orchestrator.jobs.layers import OfClient, effective
from orchestrator.jobs.params import Param
from orchestrator.jobs.secrets import Unopenable, Vault
from orchestrator.jobs.spec import SpecError, parse


def laid(declared: dict[str, object], client: dict[str, str] | None = None, launch: dict[str, object] | None = None):  # type: ignore[no-untyped-def]
    params = parse({"name": "j", "client": "c", "run": "true", "params": declared}).params
    of_client = [OfClient(name, value, secret=False) for name, value in (client or {}).items()]
    return effective(params, of_client, launch or {}, seal=lambda text: f"sealed {text}")


def refused(*args: object) -> dict[str, str]:
    with pytest.raises(SpecError) as error:
        laid(*args)  # type: ignore[arg-type]
    return dict(error.value.problems)


def test_a_launch_wins_over_the_template_and_that_over_the_client() -> None:
    found = laid({"A": "template", "B": "template"}, {"A": "client", "B": "client", "C": "client"}, {"A": "launch"})
    assert found.values == {"A": "launch", "B": "template", "C": "client"}
    assert found.sources == {"A": "launch", "B": "template", "C": "client"}


def test_a_declared_parameter_without_a_default_has_the_client_s_value() -> None:
    assert laid({"N": {"type": "integer", "required": True}}, {"N": "5"}).values == {"N": "5"}


def test_a_required_parameter_that_nobody_gives_is_named() -> None:
    told = refused({"DAY": {"required": True}, "N": {"required": True, "default": "1"}})
    assert list(told) == ["params.DAY"] and "launch with --param DAY=…" in told["params.DAY"]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("integer", 5, "5"),
        ("integer", "-12", "-12"),
        ("number", 0.5, "0.5"),
        ("number", "1e3", "1e3"),
        ("boolean", True, "true"),
        ("boolean", "false", "false"),
        ("text", 5, "5"),
        ("text", "a\n$(b) 'c' \"d\"", "a\n$(b) 'c' \"d\""),
    ],
)
def test_values_become_the_text_that_the_environment_has(kind: str, value: object, text: str) -> None:
    assert laid({"N": {"type": kind}}, {}, {"N": value}).values == {"N": text}


@pytest.mark.parametrize(
    ("kind", "value"), [("integer", "5.0"), ("integer", "5\n"), ("number", "nan"), ("number", "1_0"), ("boolean", 1)]
)
def test_a_value_that_does_not_fit_is_refused_with_who_gave_it(kind: str, value: object) -> None:
    assert "(the launch gives it)" in refused({"N": {"type": kind}}, {}, {"N": value})["params.N"]


@pytest.mark.parametrize(("name", "value"), [("A B", "x"), ("A", None), ("A", ["x"]), ("A", "x\0"), ("A", "x" * 32_769)])
def test_what_no_environment_holds_is_refused_at_launch(name: str, value: object) -> None:
    assert list(refused({}, {}, {name: value})) == [f"params.{name}"]


def test_what_anyone_calls_a_secret_is_one() -> None:
    of_client = [OfClient("KEY", "sealed long ago", secret=True)]

    def values(declared: dict[str, Param], launch: dict[str, str]) -> object:
        return effective(declared, of_client, launch, seal=lambda text: f"sealed {text}").values["KEY"]

    assert values({}, {}) == {"secret": "sealed long ago"}
    assert values({}, {"KEY": "anew"}) == {"secret": "sealed anew"}
    assert values({"KEY": Param(default="open")}, {}) == {"secret": "sealed open"}
    assert "at least 4 characters" in refused({"PIN": {"secret": True}}, {}, {"PIN": "123"})["params.PIN"]


def test_a_parameter_s_declaration_counts_for_the_version_and_its_order_does_not() -> None:
    def version(**params: object) -> str:
        return parse({"name": "j", "client": "c", "run": "true", "params": params}).version

    assert version(A="1", B="2") == version(B={"default": "2"}, A="1") != version(A="1", B="3")


# ---- the vault -------------------------------------------------------------------------------------------------------


def test_the_key_is_made_at_the_first_use_for_its_owner_alone(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "keys" / "secrets.key")
    sealed = vault.seal("hunter2")
    assert "hunter2" not in sealed and Vault(vault.path).open(sealed) == "hunter2"
    assert vault.path.stat().st_mode & 0o777 == 0o600


def test_a_rotation_is_noticed_without_a_restart_and_old_secrets_open_until_their_key_is_dropped(tmp_path: Path) -> None:
    running, other = Vault(tmp_path / "secrets.key"), Vault(tmp_path / "secrets.key")
    old = running.seal("hunter2")
    other.rotate()
    new = running.renew(old)
    assert running.open(old) == running.open(new) == "hunter2"
    other.forget(keep=1)
    assert running.open(new) == "hunter2"
    with pytest.raises(Unopenable, match="bring back the key"):
        running.open(old)


def test_without_its_file_no_new_key_pretends_to_be_it(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "secrets.key")
    sealed = vault.seal("hunter2")
    vault.path.unlink()
    with pytest.raises(Unopenable, match="there is no key file"):
        vault.open(sealed)
    assert not vault.path.exists()


# ---- the mask --------------------------------------------------------------------------------------------------------


def stored(values: tuple[bytes, ...], chunks: list[bytes]) -> bytes:
    log = b""
    for chunk in chunks:
        masked = mask(values, log, chunk) if chunk else b""
        assert len(masked) == len(chunk)
        log += masked
    return log


def test_a_value_is_masked_byte_for_byte() -> None:
    values = to_mask(["s3cret-välue"])
    assert stored(values, ["key=s3cret-välue!\n".encode()]) == b"key=" + b"*" * 13 + b"!\n"


def test_each_line_of_a_value_of_several_is_masked_alone_too() -> None:
    values = to_mask(["-----BEGIN-----\nabcdef\n}\n"])
    assert stored(values, [b"> abcdef\n> }\n"]) == b"> ******\n> }\n"


def test_a_value_that_comes_in_pieces_is_never_stored() -> None:
    values = to_mask(["hunter2"])
    assert stored(values, [b"a hun", b"t", b"er2 b"]) == b"a ******* b"


def test_a_repeated_chunk_is_masked_as_it_was() -> None:
    values = to_mask(["hunter2"])
    before = stored(values, [b"a hun"])
    assert mask(values, b"", b"a hunter2 b")[len(before) :] == mask(values, before, b"ter2 b")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab*", min_size=4, max_size=7), min_size=1, max_size=3),
    st.lists(st.sampled_from(["a", "b", "c\n", "secret"]), max_size=12),
    st.randoms(use_true_random=False),
)
def test_however_a_log_is_cut_no_value_is_left_in_it(secrets: list[str], words: list[str], chance) -> None:  # type: ignore[no-untyped-def]
    secrets = [secret for secret in secrets if set(secret) != {"*"}]
    values = to_mask(secrets)
    text = "".join(word if word != "secret" else chance.choice(secrets or ["x"]) for word in words).encode()
    cuts = sorted(chance.randint(0, len(text)) for _ in range(4))
    log = stored(values, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)])
    covered = bytearray(text)
    for value in values:
        at = text.find(value)
        while at >= 0:
            covered[at : at + len(value)] = b"*" * len(value)
            at = text.find(value, at + 1)
    assert all(shown == b"*"[0] for shown, wanted in zip(log, covered, strict=True) if wanted == b"*"[0])
    assert all(shown in (was, b"*"[0]) for shown, was in zip(log, text, strict=True))
