"""YAML as of version 1.2, read strictly: `no` is a word, 2e-5 a number, and a fault is told with its line."""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from xsub_utils._internal.validation import invalid

BOOLEANS = {"yes": True, "no": False, "on": True, "off": False}  # as YAML 1.1 has them; ours, where a boolean is meant

_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_MERGE, _KEY = "tag:yaml.org,2002:merge", "the key"


class _Loader(yaml.SafeLoader):
    """PyYAML's, with the booleans and numbers of YAML 1.2 and no key twice."""

    yaml_implicit_resolvers: ClassVar[dict] = {}  # type: ignore[misc]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """The mapping of a node, if no key stands in it twice."""
        keys: set[str] = set()
        for key in (key for key, _ in node.value if key.tag != _MERGE):
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str) or name in keys:
                problem = f"{_KEY} {name!r}" + (" twice" if isinstance(name, str) else ", which is no text")
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            keys.add(name)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(loader.construct_scalar(node))))  # type: ignore[arg-type]


def parse_yaml(text: str, place: str) -> Any:
    """The value of a YAML text.

    Args:
        text: One document.
        place: Where it is from, for errors.

    Raises:
        ValueError: If it is not YAML, has a key twice or a tag; names the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise _unreadable(error, place) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise invalid(place, "YAML", _none(" ".join(str(error).split()))) from None


def read_mapping(file: Path, what: str) -> dict[str, Any]:
    """The mapping of a YAML file.

    Args:
        file: The file.
        what: It should hold, for errors.

    Raises:
        ValueError: If the file is not text, not YAML or not a mapping.
        OSError: If it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(str(file), "text in UTF-8", f"byte {error.object[error.start]:#04x}", "save it so") from None
    value = parse_yaml(text, str(file))
    if not isinstance(value, dict):
        kind = "nothing" if value is None else f"a {'text' if isinstance(value, str) else type(value).__name__}"
        raise invalid(f"{file}, line 1", f"a mapping with {what}", kind)
    return value


def as_boolean(value: object) -> object:
    """The boolean that a word of YAML 1.1 stands for; any other value as it is."""
    return BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value


def _unreadable(error: yaml.MarkedYAMLError, place: str) -> ValueError:
    mark = error.problem_mark or error.context_mark
    line = f", line {mark.line + 1}" if mark else ""
    problem = error.problem or error.context or "something else"
    if problem.startswith("but "):
        problem = f"{error.context}, {problem}"
    if "\\t" in problem:
        return invalid(place + line, "spaces", "a tab", "YAML is indented with spaces")
    if "could not determine a constructor" in problem:
        return invalid(place + line, "plain values", f"the tag {problem.split()[-1]}", "leave it out")
    if problem.startswith(_KEY):
        return invalid(place + line, "each key once, as text", problem)
    if wanted := re.fullmatch(r"expected (.*), but (?:got|found) (.*)", problem):
        return invalid(place + line, *wanted.groups())
    return invalid(place + line, "YAML", _none(problem))


def _none(problem: str) -> str:
    return f"text that is none ({problem})"
