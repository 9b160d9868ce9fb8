"""As much of Go's text/template as Modelfiles need: range, if, variables, eq, ne, and, printf. Anything else is an error.

What it renders was compared with Go's own once, by hand: the same texts.
"""

import re

TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(:=|=|,|\(|\))|([\w.$]+))')


def tokens(text):
    found, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        assert match, f"can't read {text[at:]!r}"
        found.append(match.group(1) or match.group(2) or match.group(3))
        at = match.end()
    return found


class Template:
    def __init__(self, text):
        parts = re.split(r"\{\{(.*?)\}\}", text, flags=re.DOTALL)
        self.parts = [(bool(i % 2), part.strip() if i % 2 else part) for i, part in enumerate(parts)]
        assert not any(part.startswith("-") or part.endswith("-") for is_action, part in self.parts if is_action), "trimming isn't known here"
        self.at = 0
        self.nodes = self.block()[0]
        assert self.at == len(self.parts), "an end too many"

    def block(self):
        """Nodes up to an end or else, and that."""
        nodes = []
        while self.at < len(self.parts):
            is_action, part = self.parts[self.at]
            self.at += 1
            if not is_action:
                nodes.append(("text", part))
            elif part == "end" or part.startswith("else"):
                return nodes, part
            elif part.startswith("if "):
                nodes.append(self.condition(part.removeprefix("if ")))
            elif part.startswith("range "):
                inside, end = self.block()
                assert end == "end"
                nodes.append(("range", tokens(part)[1:], inside))
            else:
                nodes.append(("action", tokens(part)))
        return nodes, None

    def condition(self, test):
        inside, end = self.block()
        otherwise = []
        if end.startswith("else if "):
            otherwise = [self.condition(end.removeprefix("else if "))]
        elif end == "else":
            otherwise, end = self.block()
            assert end == "end"
        return ("if", tokens(test), inside, otherwise)

    def render(self, messages):
        return self.run(self.nodes, {"Messages": messages}, {})

    def run(self, nodes, dot, variables):
        return "".join(self.node(node, dot, variables) for node in nodes)

    def node(self, node, dot, variables):
        kind, what, *rest = node
        if kind == "text":
            return what
        if kind == "if":
            return self.run(rest[0] if self.value(list(what), dot, variables) else rest[1], dot, variables)
        if kind == "range":
            names, source = (what[: what.index(":=")], what[what.index(":=") + 1 :]) if ":=" in what else ([], what)
            names, text = [name for name in names if name != ","], ""
            for i, item in enumerate(self.value(list(source), dot, variables)):
                variables.update(zip(names, (i, item) if len(names) == 2 else (item,)))
                text += self.run(rest[0], item, variables)
            return text
        if len(what) > 2 and what[1] in (":=", "="):
            assert (what[1] == "=") == (what[0] in variables), what
            variables[what[0]] = self.value(what[2:], dot, variables)
            return ""
        return str(self.value(list(what), dot, variables))

    def value(self, words, dot, variables):
        """A pipeline of one command."""
        if words[0] in ("eq", "ne", "and", "printf"):
            name, *words = words
            values = []
            while words:
                values.append(self.operand(words, dot, variables))
            if name == "printf":
                return values[0] % tuple(values[1:])
            if name == "and":
                return values[0] and values[1]
            return (values[0] == values[1]) == (name == "eq")
        value = self.operand(words, dot, variables)
        assert not words, words
        return value

    def operand(self, words, dot, variables):
        word = words.pop(0)
        if word == "(":
            close = words.index(")")
            inside, words[:] = words[:close], words[close + 1 :]
            return self.value(inside, dot, variables)
        if word.startswith('"'):
            return word[1:-1].replace("\\n", "\n")
        if word.isdigit():
            return int(word)
        name, *fields = word.split(".")
        value = variables[name] if name else dot
        for field in fields:
            value = value[field]
        return value
