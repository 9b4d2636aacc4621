"""Renders every template over every conversation of cases.json, as Hugging Face transformers does,
into expected.json. Needs jinja2 3.1.6:

    pip install jinja2==3.1.6 && python tests/templates/make.py

Of the templates in llama.cpp/, the file there holds hashes of the texts only; so it does for a folder
given as the argument. With a template's path and a case's name it prints what the template makes of
the case.
"""

import copy
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 2, 9, 8, 7, 6)
TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}


class Raised(Exception):
    pass


class Generation(jinja2.ext.Extension):
    """As transformers' AssistantTracker, which marks what the model says, for training."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: NOW.strftime(format)
    return env


def form(messages, as_text, as_empty):
    """The messages with tool calls as templates may want them."""
    changed = copy.deepcopy(messages)
    for message in changed:
        if as_empty and message["content"] is None:
            message["content"] = ""
        for call in message.get("tool_calls", []) if as_text else []:
            call["function"]["arguments"] = tojson(call["function"]["arguments"])
    return changed


def attempt(template, case, as_text, as_empty):
    """The text, or what the template raised, or how it fails otherwise."""
    variables = dict(TOKENS, documents=None, **case.get("variables", {}))
    try:
        text = template.render(
            messages=form(case["messages"], as_text, as_empty),
            tools=case.get("tools"),
            add_generation_prompt=case.get("generation_prompt", True),
            **variables,
        )
        return {"text": text}
    except Raised as raised:
        return {"raised": str(raised)}
    except (
        jinja2.exceptions.TemplateError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        return {"failed": type(error).__name__}


def absent(result):
    return result["text"].count("None") + result["text"].count("null")


def render(template, case):
    """The first form of the conversation that the template takes, in the crate's order; with empty
    content instead of none, where the template would write out that there is none."""
    calls = any("tool_calls" in message for message in case["messages"])
    forms = [(False, False), (True, False), (False, True), (True, True)]
    first = None
    for as_text, as_empty in forms if calls else forms[:1]:
        result = attempt(template, case, as_text, as_empty)
        if "text" in result:
            other = attempt(template, case, as_text, True)
            return other if "text" in other and absent(other) < absent(result) else result
        first = first or result
    return first


def short(result):
    """The same with the text's 64-bit FNV-1a hash in its place."""
    if "text" not in result:
        return result
    hash = 0xCBF29CE484222325
    for byte in result["text"].encode():
        hash = (hash ^ byte) * 0x100000001B3 % 2**64
    return {"hash": f"{hash:016x}"}


def main():
    """All, or with arguments the text of one: its path, and the case's name."""
    cases = json.loads((HERE / "cases.json").read_text())
    env = environment()
    if len(sys.argv) == 3:
        template = env.from_string(pathlib.Path(sys.argv[1]).read_text())
        for case in cases:
            if case["name"] == sys.argv[2]:
                print(json.dumps(render(template, case), ensure_ascii=False, indent=1))
        return
    folders = [pathlib.Path(sys.argv[1])] if len(sys.argv) == 2 else [HERE, HERE / "llama.cpp"]
    for folder in folders:
        kept = short if folder != HERE else lambda result: result
        expected = {}
        for path in sorted(folder.glob("*.jinja")):
            template = env.from_string(path.read_text())
            expected[path.stem] = {case["name"]: kept(render(template, case)) for case in cases}
        text = json.dumps(expected, ensure_ascii=False, indent=1)
        (folder / "expected.json").write_text(text + "\n")


main()
