"""Options as text and as TOML."""

from __future__ import annotations

import math
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ambient.errors import ConfigError, MriAmbientError
from mri_ambient.runtime.config import parse_option, to_toml, write_toml

plain = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.integers(0, 9)),
    st.lists(st.text("ab\"'\\\n")),
)
keys = st.text(min_size=1, max_size=5).filter(lambda text: text.isprintable())
nested = st.recursive(
    st.dictionaries(keys, st.one_of(plain, st.none()), max_size=4),
    lambda inner: st.dictionaries(keys, st.one_of(plain, st.none(), inner), max_size=4),
    max_leaves=12,
)


def without_none(values):
    return {
        key: without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


class TestToml:
    @settings(max_examples=40)
    @given(nested)
    def test_what_is_written_is_read_again_without_none(self, values):
        assert tomllib.loads(to_toml(values)) == without_none(values)

    def test_a_file_holds_the_options_of_a_run(self, tmp_path):
        values = {
            "seed": 0,
            "precision": "auto",
            "wrapper": None,
            "shares": (0.05, 0.4),
            "learning_rate": 1e-4,
            "objective": {"name": "kspace", "cap": 20.0, "teacher": {"rank": None}},
            "endless": math.inf,
        }
        write_toml(tmp_path / "run" / "config.toml", values)
        with (tmp_path / "run" / "config.toml").open("rb") as file:
            found = tomllib.load(file)
        assert found == {
            "seed": 0,
            "precision": "auto",
            "shares": [0.05, 0.4],
            "learning_rate": 1e-4,
            "objective": {"name": "kspace", "cap": 20.0, "teacher": {}},
            "endless": math.inf,
        }
        assert type(found["objective"]["cap"]) is float

    def test_values_that_toml_lacks_leave_no_file(self, tmp_path):
        with pytest.raises(TypeError):
            write_toml(tmp_path / "a.toml", {"a": object()})
        assert list(tmp_path.iterdir()) == []

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(MriAmbientError) as refused:
            write_toml(tmp_path / "file" / "a.toml", {})
        assert str(tmp_path / "file" / "a.toml") in str(refused.value)


class TestParseOption:
    @pytest.mark.parametrize(
        ("text", "default", "value"),
        [
            ("true", False, True),
            ("False", True, False),
            ("7", 1, 7),
            ("-3", 1, -3),
            ("7", 1.0, 7.0),
            ("1e-3", 1.0, 1e-3),
            ("0.1,0.4", (0.0, 1.0), (0.1, 0.4)),
            ("db4", "haar", "db4"),
            ("12", None, 12),
            ("+12", None, 12),
            ("1.5", None, 1.5),
        ],
    )
    def test_a_value_has_the_type_of_the_default(self, text, default, value):
        found = parse_option("x", text, default)
        assert found == value and type(found) is type(value)

    @pytest.mark.parametrize(
        ("text", "default"),
        [("yes", True), ("1.5", 1), ("", 1), ("much", 1.0), ("1,b", (1.0,)), ("much", None)],
    )
    def test_other_text_is_refused_with_the_option_and_the_text(self, text, default):
        with pytest.raises(ConfigError) as refused:
            parse_option("step_size", text, default)
        assert "step_size" in str(refused.value) and repr(text) in str(refused.value)
