"""The changes that scripts/mutants.py makes in a file, one at a time, and the places that it leaves alone.

    sign        a + b to a - b and back (+= and -= too), -a to a
    factor      0.5 to 1.0, a / 2 to a / 1, a ** 2 to a ** 1
    call        sqrt, log, exp, square, abs, detach and the like replaced by their argument
    statistic   mean to median and back, if there is no axis; var, std, cov from unbiased to biased and back
    extreme     min to max and back, amin, argmin and clamp_min likewise; any to all and back
    order       < to >, <= to >=, == to != and back; and to or, and back

A wrong generator, split, axis or average is no such change: those are tested by hand (tests/known_bugs/).
"""

import ast
import copy
from collections.abc import Iterator

SKIPPED_CALLS = ("view", "reshape", "expand", "repeat", "flatten", "sum", "mean", "chunk", "split", "size", "range")
"""Arithmetic inside these calls, and inside subscripts, concerns shapes, axes and indices: a wrong one raises."""

DROPPED = ("sqrt", "log", "exp", "square", "abs", "log1p", "digamma", "detach", "cumsum", "sigmoid", "sinh", "asinh")
ENDS = ("min max", "amin amax", "argmin argmax", "minimum maximum", "cummin cummax", "clamp_min clamp_max", "any all")
SWAPPED = {a: b for pair in ENDS for a, b in (pair.split(), pair.split()[::-1])}
ORDERS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


def mutated(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, what was changed, the whole text with that one change), in the text's order."""
    tree = ast.parse(text)
    left_out = skipped(tree)
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in left_out or not isinstance(node, ast.expr | ast.stmt):
            continue
        if (what := change(copy.deepcopy(node))) is not None:
            twin = copy.deepcopy(tree)
            change([*ast.walk(twin)][index])
            yield node.lineno, what, ast.unparse(ast.fix_missing_locations(twin))


def change(node: ast.AST) -> str | None:
    """Mutate a node in place and return how; None if there is nothing to mutate."""
    if isinstance(node, ast.Call):
        return _call(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in ORDERS:
        node.ops[0] = ORDERS[type(node.ops[0])]()
        return "order"
    if isinstance(node, ast.BoolOp):
        both = isinstance(node.op, ast.And)
        node.op = ast.Or() if both else ast.And()
        return "and to or" if both else "or to and"
    return _arithmetic(node)


def _arithmetic(node: ast.AST) -> str | None:
    if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        plus = isinstance(node.op, ast.Add)
        node.op = ast.Sub() if plus else ast.Add()
        return "+ to -" if plus else "- to +"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
        return "-a to a"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Pow) and _is(node.right, 2):
        node.right = ast.Constant(1)
        return "/ 2 to / 1" if isinstance(node.op, ast.Div) else "** 2 to ** 1"
    if isinstance(node, ast.Constant) and _is(node, 0.5):
        node.value = 1.0
        return "0.5 to 1.0"
    return None


def _is(node: ast.AST, value: float) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == value


def _call(node: ast.Call) -> str | None:
    """Mutate the call of a method, x.name(..), or of a function, torch.name(x) or name(x)."""
    f, name = node.func, called(node)
    on = f.value if isinstance(f, ast.Attribute) and not _is_module(f.value) else None
    if name in DROPPED:
        return _dropped(node, name, on)
    if name in SWAPPED:
        _rename(node, SWAPPED[name])
        return f"{name} to {SWAPPED[name]}"
    if on is None:
        return None
    if name in ("var", "std", "cov"):
        biased = any(k.arg == "correction" for k in node.keywords)
        node.keywords = [] if biased else [*node.keywords, ast.keyword("correction", ast.Constant(0))]
        return f"{name} {'unbiased' if biased else 'biased'}"
    if name in ("mean", "median") and not node.args and not node.keywords:
        other = "median" if name == "mean" else "mean"
        _rename(node, other)
        return f"{name} to {other}"
    return None


def _dropped(node: ast.Call, name: str, on: ast.AST | None) -> str | None:
    if on is not None:
        _rename(node, "clone")
        node.args = []
    elif len(node.args) == 1:
        node.func = ast.parse("(lambda x: x)", mode="eval").body
    else:
        return None
    return f"{name} dropped"


def _rename(node: ast.Call, name: str) -> None:
    if isinstance(node.func, ast.Attribute):
        node.func.attr = name
    elif isinstance(node.func, ast.Name):
        node.func.id = name


def called(node: ast.Call) -> str:
    f = node.func
    return f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""


def _is_module(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("math", "torch")


def skipped(tree: ast.AST) -> set[int]:
    """Return the ids of nodes that are never changed: shapes, axes, indices, messages and pictures."""
    found: set[int] = set()
    for node in ast.walk(tree):
        inside: list[ast.AST] = []
        if isinstance(node, ast.Subscript):
            inside = [node.slice]
        elif isinstance(node, ast.JoinedStr) or _draws(node):
            inside = [node]
        elif isinstance(node, ast.Call) and called(node) in SKIPPED_CALLS:
            inside = [*node.args] if isinstance(node.func, ast.Attribute) or called(node) == "range" else []
        elif isinstance(node, ast.Call):
            inside = [a for a in node.args if _is_axis(a)]
            inside += [k.value for k in node.keywords if k.arg and k.arg.startswith("dim")]
        elif isinstance(node, ast.BinOp) and isinstance(node.left, ast.List):
            inside = [node.right]
        found |= {id(n) for part in inside for n in ast.walk(part)}
    return found


def _is_axis(node: ast.AST) -> bool:
    """Return whether an argument is an axis, -1 or (-1, -2)."""
    if isinstance(node, ast.Tuple):
        return all(map(_is_axis, node.elts))
    return isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant) and type(node.operand.value) is int


def _draws(node: ast.AST) -> bool:
    """Return whether a function draws: it takes or makes a figure or axes, and no test measures a picture."""
    if not isinstance(node, ast.FunctionDef):
        return False
    figures = (n for n in ast.walk(node) if isinstance(n, ast.Call) and called(n) == "figure")
    return bool({a.arg for a in node.args.args} & {"fig", "axes"}) or any(True for _ in figures)
