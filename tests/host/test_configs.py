"""A configuration file that cannot be read is told with its line, in one line."""

import pytest

from guardian.errors import UserError
from guardian.host.configs import read_config

YAML_TAB = "model: m\n\tdataset: d\n"
JSON_COMMA = '{"per_device_train_batch_size": 4,\n "seed": 1,\n}\n'


@pytest.mark.parametrize(
    "name, text, where, why",
    [
        ("tab.yaml", YAML_TAB, "tab.yaml:2: ", "a tab"),
        ("open.yml", "a: [1, 2\nb: 3\n", "open.yml:2: ", "is not YAML"),
        ("comma.json", JSON_COMMA, "comma.json:", "a comma"),
        ("open.json", '{"a": 1', "open.json:1: ", "delimiter"),
        ("bad.toml", "[knobs\n", "bad.toml:1: ", "is not TOML"),
        ("list.json", "[1]", "list.json: ", "a mapping"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path, name, text, where, why):
    """A person can go there; nothing of a parser's own words over several lines."""
    (tmp_path / name).write_text(text)

    with pytest.raises(UserError) as told:
        read_config(str(tmp_path / name))

    assert f"{tmp_path}/{where}" in str(told.value)
    assert why in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    """As the system says it."""
    with pytest.raises(UserError, match=r"none\.yaml: No such file"):
        read_config(str(tmp_path / "none.yaml"))
