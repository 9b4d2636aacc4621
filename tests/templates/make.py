"""Renders every template over every conversation of cases.json, as Hugging Face transformers does,
into expected.json. Needs jinja2 3.1.6:

    pip install jinja2==3.1.6 && python tests/templates/make.py
"""

import copy
import datetime
import json
import pathlib

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


def forms(messages):
    """The messages with tool calls as templates may want them, in the crate's order."""
    yield messages
    if not any("tool_calls" in message for message in messages):
        return
    for as_text, as_empty in [(True, False), (False, True), (True, True)]:
        changed = copy.deepcopy(messages)
        for message in changed:
            if as_empty and message["content"] is None:
                message["content"] = ""
            for call in message.get("tool_calls", []) if as_text else []:
                call["function"]["arguments"] = tojson(call["function"]["arguments"])
        yield changed


def render(template, case):
    """The text, or what the template raised, or null where it fails otherwise."""
    first = None
    for messages in forms(case["messages"]):
        variables = dict(TOKENS, documents=None, **case.get("variables", {}))
        try:
            text = template.render(
                messages=messages,
                tools=case.get("tools"),
                add_generation_prompt=case.get("generation_prompt", True),
                **variables,
            )
            return {"text": text}
        except Raised as raised:
            result = {"raised": str(raised)}
        except (jinja2.exceptions.TemplateError, TypeError, ValueError, AttributeError) as error:
            result = {"failed": type(error).__name__}
        first = first or result
    return first


def main():
    cases = json.loads((HERE / "cases.json").read_text())
    env = environment()
    expected = {}
    for path in sorted(HERE.glob("*.jinja")):
        template = env.from_string(path.read_text())
        expected[path.stem] = {case["name"]: render(template, case) for case in cases}
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (HERE / "expected.json").write_text(text + "\n")


main()
