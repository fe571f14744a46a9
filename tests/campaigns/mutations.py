"""What one place of a source may be changed to: the mutants of mutants.py, and the code they may touch."""

import ast
import copy
from collections.abc import Iterator

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
UNTOUCHED = ("Meta", "info", "warning", "error", "debug", "TypeVar", "ValueError", "getLogger", "get_logger")


def expressions(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Yield what *node* itself may be changed to."""
    changed = copy.deepcopy(node)
    match changed:
        case ast.Compare(ops=ops):
            for index, old in enumerate(ops):
                ops[index] = COMPARISONS[type(old)]()
                yield "comparison", changed
                ops[index] = old
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            changed.op = OPERATORS[type(op)]()
            yield "arithmetic", changed
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield "constant", ast.Constant(value + 1)
        case ast.BoolOp(op=op):
            changed.op = ast.And() if isinstance(op, ast.Or) else ast.Or()
            yield "boolean", changed
        case ast.UnaryOp(op=ast.Not()):
            yield "boolean", changed.operand
        case ast.UnaryOp(op=ast.USub()):
            yield "arithmetic", changed.operand
        case ast.IfExp():
            yield "boolean", ast.IfExp(ast.UnaryOp(ast.Not(), changed.test), changed.body, changed.orelse)


def statements(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield what the statement *node* may be changed to."""
    match node:
        case ast.Return(value=ast.expr() as value) if not _is_constant(value, None):
            yield "return", "return None"
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield "statement", "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement", "pass"
        case ast.Continue() | ast.Break() | ast.Raise():
            yield "statement", "pass"


def _is_constant(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_untouched(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Name | ast.Attribute) and (
        (called.id if isinstance(called, ast.Name) else called.attr) in UNTOUCHED
    )


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield *node* and what is below it and is code: no types, decorators or messages."""
    if _is_untouched(node) or (isinstance(node, ast.Expr) and _is_untouched(node.value)):
        return
    yield node
    if isinstance(node, ast.Raise):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "keywords") and not (
            name == "keywords" and isinstance(node, ast.Call)
        ):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walk(child)


def changes(source: bytes) -> Iterator[tuple[str, int, int, str]]:
    """Yield (operator, start, end, text) of every mutant of *source*, in bytes."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in walk(ast.parse(source)):
        found: list[tuple[str, str]] = []
        if isinstance(node, ast.expr):
            found = [(kind, _text(changed)) for kind, changed in expressions(node)]
        elif isinstance(node, ast.stmt):
            found = list(statements(node))
        for kind, text in found:
            start = starts[node.lineno - 1] + node.col_offset
            yield kind, start, starts[node.end_lineno - 1] + node.end_col_offset, text


def _text(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if isinstance(node, ast.Constant) else f"({text})"
