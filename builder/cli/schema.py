"""The definition's model as a JSON schema for editors and as the reference page, both generated.

builder/definition/definition.py  --json_schema()-->  docs/definition.schema.json
                       --page()--------->  docs/definition.md
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import json
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from builder.cli.verb import Verb
from builder.definition import definition
from builder.definition.definition import RULES, Definition, Size, sections, size_text
from builder.definition.include import COMMON, SECTIONS, Named, Whole

LINE: Final = 120
"""Lines of the page end there."""

INTRODUCTION: Final = """\
# The definition: `image/node.yaml`

This page is made from `builder/definition/definition.py` by `osbuild schema --markdown`.

YAML. A mistake in it is reported with file, line and column, and the nearest known key. Its lock lies beside it, same
name with `.lock`; `osbuild lock FILE` writes it and is needed again when `suites`, `packages` or `assume` change, and
for nothing else.

    # hello.yaml: osbuild lock hello.yaml && osbuild container hello.yaml
    version: 1
    name: hello
    suites: [{suite: trixie}]
    packages: [base-passwd, busybox-static]
    container: {repository: example/hello, cmd: [/usr/bin/busybox, echo, hello]}

## In an editor

An editor with a YAML language server completes and explains these keys. `osbuild schema >definition.schema.json` writes
the schema (in a checkout it is `docs/definition.schema.json`); the definition's first line says where it is:

    # yaml-language-server: $schema=definition.schema.json
"""

INCLUDE: Final = """
## Add to a definition of ours: `include`

    # mine/node.yaml: osbuild lock mine/node.yaml && osbuild image --definition mine/node.yaml
    include: node
    name: mine
    packages: [tmux]
    overlay: overlay
    presets: {{enable: [hello.service]}}

`osbuild new mine` writes such a folder. `include: node` is one of ours (`image/node.yaml`; by bare names also the
others of `image/`); anything else is a path, relative to the file that says it (`./base.yaml`). What is included may
include another. The files become one, and the rules of this page apply to the whole:

* Lists append what is not there yet: the included definition's items, then yours. That goes for `overlay`, too: each
  file's overlay lies beside that file, and yours wins.
* A thing is there once under its name, and another one of the same name is an error. The names:
  {named}.
* A list that is one command line is replaced: {whole}.
* Mappings and sections merge key by key, and your value wins.
* Single values are replaced.
* `null` replaces anything: `kernel: null` takes the section out.
* A list where the included definition has a mapping, or the like, is an error.

Nothing is taken out of a list; a file that should not be in the image goes by `remove`. The lock beside your file
answers the merged definition: after ours changed its packages (a new version of Flotilla), `osbuild lock` is needed
again. An error names the file, line and column that it comes from.
"""

ARCHITECTURES: Final = """
## One definition, several architectures: `architectures`

    packages: [base-files, systemd]
    architectures:
      amd64:
        packages: [linux-image-amd64]
        kernel: {consoles: [ttyS0]}
      arm64:
        packages: [linux-image-arm64]
        kernel: {consoles: [ttyAMA0]}

`osbuild image --arch arm64` merges the section of that name over the rest of its file, by the rules above; an
architecture that differs in nothing needs no section. An included file is merged with its section first, so that yours
wins over both. Each architecture has a lock of its own: `node.lock` for amd64, `node.arm64.lock` for arm64
(`osbuild lock --arch arm64`). All sections are checked, whichever is built.
"""

EXAMPLES: Final = {
    "schema": """
  osbuild schema >definition.schema.json
                                         a definition's JSON schema, for editors
  osbuild schema --markdown              the reference page, docs/definition.md""",
}

_WORDS: Final[dict[object, str]] = {
    str: "text",
    int: "number",
    bool: "true or false",
    ByteSize: "size (`64MiB`, `120 MB`)",
    dict[str, object]: "keys of this page",
}


def add_verbs(verb: Verb) -> None:
    """Add the parser of it."""
    parser = verb("schema", "print what a definition may hold, for editors and readers")
    parser.add_argument("--markdown", action="store_true", help="print the reference page instead")
    parser.set_defaults(run=command)


def command(arguments: argparse.Namespace) -> int:
    """``osbuild schema``: print the JSON schema, or the page."""
    print(page() if arguments.markdown else json_schema(), end="")
    return 0


def json_schema() -> str:
    """The JSON schema (draft 2020-12) of a definition, as text."""
    schema: dict[str, Any] = Definition.model_json_schema(by_alias=True)
    meanings = _meanings()
    for name, each in [("Definition", schema), *schema["$defs"].items()]:
        for key, field in each["properties"].items():
            field["description"] = meanings[name, key]
    for _, model in _models():
        for key, field in model.model_fields.items():
            if _is_size(field):
                schema["$defs"][model.__name__]["properties"][key]["default"] = size_text(field.default)
    # With an include, what a file lacks may be in another one: only the build can check that.
    schema["anyOf"] = [{"required": ["include"]}, {"required": schema.pop("required")}]
    for field in Definition.model_fields.values():
        for section in sections(field.annotation):
            schema["$defs"][section.__name__].pop("required", None)
    keys = {key: {"$ref": f"#/properties/{key}"} for key in schema["properties"] if key not in COMMON}
    schema["properties"][SECTIONS]["additionalProperties"] = {
        "type": "object",
        "properties": keys,
        "additionalProperties": False,
    }
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(_cleaned(schema), indent=2, ensure_ascii=False) + "\n"


def page() -> str:
    """The reference page in Markdown: an introduction, then the keys of the definition and of its sections."""
    named = ", ".join(f"`{'.'.join(at)}` by `{rule.key}`" for at, rule in RULES.items() if isinstance(rule, Named))
    whole = ", ".join(f"`{'.'.join(at)}`" for at, rule in RULES.items() if isinstance(rule, Whole))
    introduction = INTRODUCTION + INCLUDE.format(named=named, whole=whole) + ARCHITECTURES
    return introduction + "".join("\n" + "\n".join(_section(name, model)) + "\n" for name, model in _models())


def _meanings() -> dict[tuple[str, str], str]:
    """(model, key) to the docstring below that field.

    pydantic can read these, too, but on import of the model, and every build would wait for it.
    """
    found: dict[tuple[str, str], str] = {}
    module = ast.parse(Path(definition.__file__).read_text("utf-8"))
    for model in (each for each in module.body if isinstance(each, ast.ClassDef)):
        for field, text in itertools.pairwise(model.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[model.name, name.removesuffix("_")] = words
    return found


def _cleaned(value: object) -> object:
    """The schema without reST's double backquotes, and without titles, which only repeat the keys."""
    if isinstance(value, dict):
        return {
            key: _plain(item) if key == "description" and isinstance(item, str) else _cleaned(item)
            for key, item in value.items()
            if not (key == "title" and isinstance(item, str))
        }
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


def _plain(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split()).replace("``", "`")


def _models() -> Iterator[tuple[str, type[BaseModel]]]:
    """(key that leads there, model), the definition itself first, under no key."""
    yield "", Definition
    for name, field in Definition.model_fields.items():
        for model in _nested(field.annotation):
            yield name, model


def _nested(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _nested(argument)


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## `{name}`" if name else "## Every key"
    yield ""
    yield from textwrap.wrap(_plain(model.__doc__ or ""), LINE, break_on_hyphens=False)
    yield ""
    meanings = _meanings()
    for name, field in model.model_fields.items():
        key = field.alias or name
        value = "size" if _is_size(field) else _type(field.annotation, key)
        text = f"* `{key}` ({value}{_default(field)}): {_plain(meanings[model.__name__, key])}"
        yield from textwrap.wrap(text, LINE, subsequent_indent="  ", break_on_hyphens=False)


def _is_size(field: FieldInfo) -> bool:
    return tuple(field.metadata) == typing.get_args(Size)[1:]


def _type(annotation: object, key: str) -> str:
    """The type of ``key`` as text: ``list of text``."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    arguments = [each for each in typing.get_args(annotation) if each not in (Ellipsis, type(None))]
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(each, key) for each in arguments)
    if origin is typing.Annotated:
        return _type(arguments[0], key)
    if origin is tuple:
        return f"list of {_type(arguments[0], key)}"
    if origin is dict:
        return f"{_type(arguments[0], key)} to {_type(arguments[1], key)}"
    (model,) = _nested(annotation)
    return f"[{model.__name__.lower()}](#{key})"


def _default(field: FieldInfo) -> str:
    """In YAML's notation, behind a comma; nothing for an empty default."""
    if field.is_required():
        return ", required"
    if _is_size(field):
        return f", default `{size_text(field.default)}`"
    if field.default in (None, (), {}, "") or isinstance(field.default, BaseModel):
        return ""
    return f", default `{field.default if isinstance(field.default, str) else json.dumps(field.default)}`"
