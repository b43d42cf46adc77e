"""A function cut in two between statements of its body: a head, and the tail that follows it.

In: a function whose source can be read. Out (``Body``): its definition; the function with a call
before each statement (``marked``); and a head, which returns what the rest of the function needs,
with a tail, which takes that (``cut``). Invariants: the source is the one that runs, as its code
shows; the parts share the function's globals and closure, and read what it would.
"""

from __future__ import annotations
import __future__

import ast
import copy
import inspect
import linecache
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

_MARK, _UNBOUND = "__flamec_mark", "__flamec_unbound"
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_NAMES_READ = frozenset(("locals", "vars", "dir", "eval", "exec", "globals"))
_GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_FUTURES = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
UNBOUND: Any = type("Unbound", (), {"__repr__": lambda self: "<unbound>"})()


@dataclass(frozen=True)
class Parts:
    """``head(*args, **kwargs)`` gives ``(True, result)`` if the function returns in it, else
    ``(False, values)``, and then ``tail(*values)`` is the result. ``line``: the tail's first."""

    head: Any
    tail: Callable[..., Any]
    line: int

    def finish(self, found: tuple[bool, Any]) -> Any:
        """The result of the function from the head's."""
        is_over, value = found
        return value if is_over else self.tail(*value)


class Body:
    """The definition of a function, a plain one or a method; made by ``body_of``."""

    def __init__(self, function: FunctionType | MethodType, node: ast.FunctionDef) -> None:
        self._owner = function.__self__ if isinstance(function, MethodType) else None
        plain = function.__func__ if isinstance(function, MethodType) else function
        assert isinstance(plain, FunctionType)
        self._plain = plain
        self._node = node
        self._imports: list[ast.stmt] = []
        self._known = code = self._plain.__code__
        self._locals = {*code.co_varnames, *code.co_cellvars}
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
        self._parameters = {a.arg for a in named}

    @property
    def statements(self) -> Sequence[ast.stmt]:
        return self._node.body

    def matches(self) -> bool:
        """Whether the definition is that of the function's code now."""
        known = self._plain.__code__
        if _same_code(self._code(self._node, ()), known):
            return True
        self._imports = _imports(known.co_filename)  # methods of those are called otherwise
        return _same_code(self._code(self._node, ()), known)

    def is_current(self, made: Any) -> bool:
        """Whether the function has the code and the defaults that one made of it has."""
        made, now = getattr(made, "__func__", made), self._plain
        same = made.__defaults__ is now.__defaults__ and made.__kwdefaults__ is now.__kwdefaults__
        return same and now.__code__ is self._known

    def marked(self, mark: Callable[[int], None]) -> Any:
        """The function, which calls ``mark(i)`` before its statement ``i``."""
        node = copy.deepcopy(self._node)
        node.body = []
        for number, statement in enumerate(self._node.body):
            call = ast.parse(f"{_MARK}({number})").body[0]
            node.body += [_located(call, statement), statement]
        return self._made(node, {_MARK: mark})

    def cut(self, count: int) -> Parts | None:
        """The first ``count`` statements, and the others; None where values would get lost."""
        first, rest = self._node.body[:count], self._node.body[count:]
        stored = set(_stored(first))
        bound = self._parameters | stored
        if any(name not in bound for name in self._named(first)):
            return None  # of a variable that only the tail sets
        inner = {n for scope in _scopes(first) for n in self._named([scope])}
        if inner & set(_stored(rest)):
            return None  # which a function of the head would see
        live = sorted(self._live(rest) & bound)
        if any(isinstance(n, ast.Name) and n.id == "super" for s in rest for n in ast.walk(s)):
            owner = self._plain.__code__.co_varnames[0]  # super() takes the first parameter
            live = [owner, *(name for name in live if name != owner)]
        sure = self._parameters | set(_always_stored(first))
        unsure = [name for name in live if name not in sure or name in set(_deleted(first))]
        unbound = {_UNBOUND: UNBOUND}
        head = copy.deepcopy(self._node)
        head.body = [_Returns().visit(copy.deepcopy(s)) for s in first]
        text = [f"try: {name}\nexcept NameError: {name} = {_UNBOUND}" for name in unsure]
        text.append(f"return False, ({''.join(f'{name}, ' for name in live)})")
        head.body += _statements(text, rest[0])
        tail = copy.deepcopy(self._node)
        tail.args = _definition(f"def f({', '.join(live)}): pass").args
        tail.decorator_list, tail.returns = [], None
        declared = [
            copy.deepcopy(n) for n in _own(first) if isinstance(n, (ast.Global, ast.Nonlocal))
        ]
        text = [f"if {name} is {_UNBOUND}: del {name}" for name in unsure]
        tail.body = [*declared, *_statements(text, rest[0]), *rest]
        made = self._made(tail, unbound, is_method=False)
        return Parts(self._made(head, unbound), made, rest[0].lineno)

    def _named(self, nodes: Iterable[ast.AST]) -> Iterator[str]:
        """The local variables that are read."""
        for node in nodes:
            for part in ast.walk(node):
                if not isinstance(part, ast.Name) or part.id not in self._locals:
                    continue
                if isinstance(part.ctx, ast.Load):
                    yield part.id

    def _live(self, statements: Iterable[ast.stmt]) -> set[str]:
        """The local variables whose values statements may need."""
        live: set[str] = set()
        defined: set[str] = set()
        for statement in statements:
            names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)} & self._locals
            target = _only_target(statement)
            if target is not None:
                assert isinstance(statement, ast.Assign)
                names = set(self._named([statement.value]))
            live |= names - defined
            if target is not None:
                defined.add(target)
        return live

    # functions ----------------------------------------------------------------------
    def _made(self, node: ast.FunctionDef, given: dict[str, Any], is_method: bool = True) -> Any:
        """The function of an altered definition; ``given``: further variables of its closure."""
        plain = self._plain
        code = self._code(node, given)
        cells = dict(zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True))
        cells |= {name: CellType(value) for name, value in given.items()}
        closure = tuple([cells[name] for name in code.co_freevars])
        code = code.replace(co_name=plain.__name__)
        made = FunctionType(code, plain.__globals__, plain.__name__, None, closure)
        made.__qualname__, made.__module__ = plain.__qualname__, plain.__module__
        if not is_method:
            return made
        made.__defaults__, made.__kwdefaults__ = plain.__defaults__, plain.__kwdefaults__
        made.__dict__["__wrapped__"] = plain  # so that what it is now is guarded
        return made if self._owner is None else MethodType(made, self._owner)

    def _code(self, node: ast.FunctionDef, given: Iterable[str]) -> CodeType:
        """The code of a definition that stands where the function's does."""
        original = self._plain.__code__
        factory = _definition("def factory(): pass")
        free = [f"{name} = None" for name in (*original.co_freevars, *given)]
        factory.body = [*_statements(free, node), node]
        module = ast.fix_missing_locations(ast.Module([*self._imports, factory], []))
        flags = original.co_flags & _FUTURES
        outer = compile(module, original.co_filename, "exec", flags, dont_inherit=True)
        inner = next(c for c in outer.co_consts if isinstance(c, CodeType))
        return next(
            c for c in inner.co_consts if isinstance(c, CodeType) and c.co_name == node.name
        )


def body_of(function: Any) -> Body | None:
    """The definition of a function; None if it cannot be found or taken apart."""
    plain = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(plain, FunctionType) or plain.__code__.co_flags & _GENERATORS:
        return None
    try:
        lines, first = inspect.getsourcelines(plain.__code__)
    except (OSError, TypeError):
        return None
    text = "".join(lines)
    is_indented = text[:1].isspace()
    try:
        tree = ast.parse(f"if 1:\n{text}" if is_indented else text)
    except SyntaxError:
        return None
    node = tree.body[0].body[0] if isinstance(tree.body[0], ast.If) else tree.body[0]
    if not isinstance(node, ast.FunctionDef) or node.name != plain.__name__:
        return None
    if any(isinstance(n, ast.Name) and n.id in _NAMES_READ for n in ast.walk(node)):
        return None
    ast.increment_lineno(node, first - 1 - is_indented)
    body = Body(function, node)
    return body if body.matches() else None


def _same_code(found: CodeType, known: CodeType) -> bool:
    """Whether two functions do the same at the same lines, wherever they are defined."""
    flags = [code.co_flags & ~inspect.CO_NESTED for code in (found, known)]
    return found.replace(co_flags=flags[0]) == known.replace(co_flags=flags[1])


def _imports(file: str) -> list[ast.stmt]:
    """The imports of a module: whether a name is from one of them decides how it is compiled."""
    try:
        module = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return []
    found = [n for n in _own([module]) if isinstance(n, (ast.Import, ast.ImportFrom))]
    return [n for n in found if getattr(n, "module", None) != "__future__"]


class _Returns(ast.NodeTransformer):
    """``return x`` becomes ``return True, x``."""

    def visit_Return(self, node: ast.Return) -> ast.Return:
        value = ast.Constant(None) if node.value is None else node.value
        node.value = ast.Tuple([ast.Constant(True), value], ast.Load())
        return _located(node, node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        return node if isinstance(node, _SCOPES) else super().generic_visit(node)


def _own(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of a function's own scope; of inner functions and classes only themselves."""
    for node in nodes:
        yield node
        if not isinstance(node, _SCOPES):
            yield from _own(ast.iter_child_nodes(node))


def _scopes(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The functions, classes and generators in statements, which may outlive these."""
    return (
        n for node in nodes for n in ast.walk(node) if isinstance(n, (*_SCOPES, ast.GeneratorExp))
    )


def _stored(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The names that statements bind, in the function's own scope."""
    for node in _own(nodes):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((a.asname or a.name.partition(".")[0]) for a in node.names)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest


def _always_stored(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """The names that statements bind, whatever is decided in them."""
    for statement in statements:
        if isinstance(statement, (ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom)):
            yield from _stored([statement])
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            yield from _stored([statement.target])


def _deleted(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in _own(nodes):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del):
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


def _only_target(statement: ast.stmt) -> str | None:
    """The variable that an assignment sets, if that is all that it does beside its value."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Name):
            return target.id
    return None


def _definition(text: str) -> ast.FunctionDef:
    found = ast.parse(text).body[0]
    assert isinstance(found, ast.FunctionDef)
    return found


def _statements(texts: Iterable[str], place: ast.stmt) -> list[ast.stmt]:
    """Statements of their own that stand at the line of another."""
    return [_located(s, place) for text in texts for s in ast.parse(text).body]


def _located(node: Any, place: ast.stmt) -> Any:
    for part in ast.walk(node):
        has_place = isinstance(part, (ast.stmt, ast.expr, ast.ExceptHandler))
        if has_place and not (node is place and hasattr(part, "lineno")):
            ast.copy_location(part, place)
    return node
