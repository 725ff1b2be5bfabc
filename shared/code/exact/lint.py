"""The lint: what a dispatch mode cannot see, found in f's sources: NumPy, Python's own floats, and how kernels are compiled.

It reads syntax and knows no types, so a reduction is lawful to it only if it says that it sums integers; the few that it
cannot know stand in `ALLOWED`, each with its reason. Torch operations are `guard`'s business.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

INTEGER_MATH: Final = frozenset({"isqrt", "gcd", "lcm", "comb", "factorial", "perm"})
_INEXACT: Final = frozenset(
    """
    exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh power float_power hypot cbrt
    logaddexp logaddexp2 sinc linspace logspace geomspace interp convolve correlate polyval polyfit random linalg fft
    """.split()  # noqa: SIM905 - a list of names reads better so
)
_REDUCTIONS: Final = frozenset(
    "sum nansum mean nanmean average std var prod cumsum cumprod dot vdot inner matmul einsum tensordot trace norm fsum".split()  # noqa: SIM905
)
_INTEGER_TYPES: Final = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
_COMPILERS: Final = frozenset({"njit", "jit", "vectorize", "guvectorize", "stencil", "prange", "compile_isolated", "cfunc"})
_CHANCE: Final = frozenset({"random", "secrets", "time", "uuid", "datetime"})

ALLOWED: Final[dict[tuple[str, str], str]] = {
    ("codec", "lengths.sum()"): "int64",
    ("codec", "(np.minimum(lengths, end) - np.minimum(lengths, start)).sum()"): "int64",
    ("compiled", "numba.njit"): "the one place where kernels are compiled",
    ("exact.products", "(left[:, :, None] * right[None]).sum(1)"): "int64, for the self-check",
}
"""(module within `shared.code`, expression) to the reason why it is lawful."""
_GUARDED: Final = "exact.reference"
"""Whose sums are torch's, all of which the tests run under the guard."""
_SUM: Final = "a sum over integers that says so: .sum(dtype=np.int64), or a loop in a kernel"


@dataclass(frozen=True, slots=True)
class Finding:
    """A place in a source, and the lawful way."""

    line: int
    expression: str
    way: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.expression}: {self.way}"


def lint(source: str) -> list[Finding]:
    """What may differ between machines, in order of lines."""
    tree = ast.parse(source)
    findings = {
        (node.lineno, node.col_offset, ast.unparse(node), way)  # type: ignore[attr-defined]
        for node in ast.walk(tree)
        for way in _ways(node, source)
    }
    return [Finding(line, expression, way) for line, _, expression, way in sorted(findings)]


def unexplained(module: str, source: str, used: set[tuple[str, str]]) -> list[Finding]:
    """Findings without an entry in `ALLOWED`; the entries that were needed are added to `used`."""
    findings = [finding for finding in lint(source) if not (module == _GUARDED and finding.way == _SUM)]
    used.update(key for finding in findings if (key := (module, finding.expression)) in ALLOWED)
    return [finding for finding in findings if (module, finding.expression) not in ALLOWED]


def _ways(node: ast.AST, source: str) -> Iterator[str]:
    match node:
        case ast.Constant(value=float()) if not _exact(node, source):
            yield "a number that float32 has, written in full, or made from integers or `decimal`"
        case ast.Constant(value=complex()):
            yield "real numbers"
        case ast.BinOp(op=ast.Pow(), left=left, right=right) if not (_is_two(left) or _is_count(right)):
            yield "powers of two, or products"
        case ast.BinOp(op=ast.MatMult()):
            yield "exact products of integers: products.prepare(right).times(left)"
        case ast.Import(names=names):
            yield from _imports(alias.name for alias in names)
        case ast.ImportFrom(module=str(module), names=names):
            yield from _imports([module])
            if module == "math":
                yield from (f"integer functions only: not {a.name}" for a in names if a.name not in INTEGER_MATH)
        case ast.Attribute(value=ast.Name(id="math"), attr=name) if name not in INTEGER_MATH:
            yield "integer functions of `math` only; polynomials and tables for others"
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=name) if name in _INEXACT:
            yield "NumPy rounds this differently by processor: `exact.fused.exp`, polynomials, tables from integers"
        case ast.Attribute(value=ast.Name(id="torch"), attr="compile"):
            yield "no torch.compile: it fuses"
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in _COMPILERS:
            yield "`compiled.kernel`, the one way in which kernels are compiled"
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in _REDUCTIONS and not _says_integers(node):
            yield _SUM
        case ast.Call(func=ast.Name(id="hash" | "id" as name)):
            yield f"{name}() differs from process to process"
        case ast.keyword(arg="fastmath" | "parallel", value=value) if not (
            isinstance(value, ast.Constant) and value.value is False
        ):
            yield "no fastmath, which contracts and reorders, and no parallel loops"
        case _:
            pass


def _exact(node: ast.Constant, source: str) -> bool:
    """Whether the text of this literal is a float32 number exactly."""
    text = ast.get_source_segment(source, node) or repr(node.value)
    with np.errstate(over="ignore"):
        rounded = float(np.float32(node.value))  # type: ignore[arg-type]
    return rounded == node.value and Fraction(text.replace("_", "")) == Fraction(rounded)


def _is_two(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (2, 2.0)


def _is_count(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value >= 0


def _says_integers(call: ast.Call) -> bool:
    """dtype=np.int64 and the like, or x.to(torch.int64).sum()."""
    kinds = [keyword.value for keyword in call.keywords if keyword.arg == "dtype"]
    inner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr in ("to", "astype"):
        kinds += inner.args
    return any(isinstance(kind, ast.Attribute) and kind.attr in _INTEGER_TYPES for kind in kinds)


def _imports(names: Iterable[str]) -> Iterator[str]:
    yield from (f"nothing that chance or the clock decides: not {name}" for name in names if name.split(".")[0] in _CHANCE)
