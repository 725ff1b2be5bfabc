"""The guard: a dispatch mode that lets torch run only what every machine computes alike, and names the lawful way otherwise.

It sees each operation with its arguments, on the thread that entered it, so it also judges values: whether the operands of a
product are the small integers they must be, and whether a number that becomes an integer fits one; of the data at hand, so a
clamp that is missing shows only once it is missed. It sees neither NumPy nor compiled kernels (`lint` reads those), nor
causality (tests rewrite the future).
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import wraps
from typing import Any, Final, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from shared.code.errors import NonPortableOperation
from shared.code.exact import products
from shared.code.exact.constants import ACTIVATION_LIMIT, WEIGHT_BITS

_FLOATS: Final = (torch.float32, torch.float64)
_INTEGERS: Final = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_DIGIT_LIMIT: Final = 64
_INNER_LIMIT: Final = 1 << 20


def _names(text: str) -> list[str]:
    return text.split()


_FREE: Final = frozenset(
    _names("""
    alias arange as_strided cat clone constant_pad_nd contiguous detach diagonal empty empty_like empty_strided expand fill flip
    full full_like gather index index_select item lift_fresh _local_scalar_dense masked_fill masked_select new_empty
    new_empty_strided new_full new_ones new_zeros ones ones_like permute repeat repeat_interleave reshape _reshape_alias roll
    scalar_tensor select set_ slice split split_with_sizes squeeze stack t transpose tril triu unbind unsafe_split unsqueeze
    _unsafe_view view where zero zeros zeros_like
    abs neg sign round floor ceil trunc clamp clamp_min clamp_max maximum minimum max min amax amin
    eq ne lt le gt ge equal isnan isinf isfinite is_nonzero logical_and logical_or logical_not logical_xor all any
    bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift
    __and__ __or__ __xor__ __lshift__ __rshift__ __ilshift__ __irshift__
    """)
)
"""Moving, choosing, comparing, rounding to integers: exact for every argument, once types are."""

_POLYNOMIAL: Final = "2^⌊y⌋ times a polynomial of the fraction, as `exact.reference.exp`; other functions likewise or rational"
_SUM: Final = "sum integers: x.to(torch.int64).sum() of terms scaled by a power of two and rounded"
_SEPARATE: Final = "separate operations, one rounding each: a product, then a sum"
_PRODUCT: Final = "exact products of integers: products.prepare(right).times(left)"
_TABLE: Final = "a table made from integers or `decimal`"
_WAYS: Final[dict[str, str]] = (
    dict.fromkeys(_names("_softmax _log_softmax exp exp2 expm1 sigmoid silu tanh gelu erf softplus elu"), _POLYNOMIAL)
    | dict.fromkeys(_names("log log2 log10 log1p sin cos tan linspace logspace pow"), _TABLE)
    | dict.fromkeys(_names("mean std var norm linalg_vector_norm logsumexp prod cumprod var_mean std_mean"), _SUM)
    | dict.fromkeys(_names("native_layer_norm native_batch_norm native_group_norm _fused_rms_norm"), _SUM)
    | dict.fromkeys(_names("scatter_reduce index_reduce embedding_dense_backward histc bincount"), _SUM)
    | dict.fromkeys(_names("addcmul addcdiv lerp addmm addmv addr baddbmm addbmm hypot logaddexp"), _SEPARATE)
    | dict.fromkeys(_names("dot vdot mv convolution _scaled_dot_product_flash_attention_for_cpu"), _PRODUCT)
    | {"rsqrt": "torch.ones_like(x) / x.to(torch.float64).sqrt()", "reciprocal": "torch.ones_like(x) / x"}
)
_OTHER: Final = "operations that `exact.guard` lists, as `exact.reference` uses them"


def _refuse(name: str, way: str) -> None:
    raise NonPortableOperation(name, way)


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    out: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            out.append(value)
        elif isinstance(value, (list, tuple)):
            out += _tensors(value)
    return out


def _numbers(values: Iterable[Any]) -> list[float | int]:
    return [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]


def _integral(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in _INTEGERS


def _arithmetic(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """One rounding: like types, no factor hidden in the operation, scalars that float32 has."""
    if kwargs.get("alpha", 1) != 1:
        _refuse(f"{name} with alpha", _SEPARATE)
    operands = _tensors(args[:2])
    kinds = {x.dtype for x in operands}
    numbers = _numbers(args[:2])
    if kinds & set(_FLOATS):
        if len(kinds) > 1:
            _refuse(f"{name} of mixed types", "convert first: x.to(…)")
        if torch.float32 in kinds and any(_rounded(number) for number in numbers):
            _refuse(f"{name} by a number that float32 lacks", "a constant rounded to float32 once, in `exact.constants`")
    elif any(isinstance(number, float) for number in numbers):
        _refuse(f"{name} of integers and a float", "convert first: x.to(…)")


def _rounded(number: float) -> bool:
    return torch.tensor(number, dtype=torch.float64).to(torch.float32).item() != number


def _divide(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    left, right = args[:2]
    if kwargs.get("rounding_mode") is not None:
        if not (_integral(left) and (_integral(right) or isinstance(right, int))):
            _refuse(f"{name} that rounds floats", "divide integers, or divide and then round")
        return
    if not isinstance(right, Tensor):
        _refuse(f"{name} by a Python number", "divide by a tensor, or multiply by a stated constant (CUDA multiplies by 1/x)")
    elif not right.dim() and right.device != left.device:
        _refuse(f"{name} by a number on another device", "a divisor on the tensor's device (CUDA multiplies by 1/x)")
    elif _integral(left) or _integral(right):
        _refuse(f"{name} of integers", "convert first: x.to(torch.float64)")
    _arithmetic(name, args, {})


def _root(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """CPUs take MKL's square root, wrong by one ulp now and then: harmless only to the root of a float32, rounded to one."""
    del kwargs
    x = args[0]
    if x.dtype != torch.float64:
        _refuse(f"{name} of {x.dtype}", "x.to(torch.float64).sqrt().to(torch.float32)")
    if x.device.type == "cpu" and not bool((x.to(torch.float32).to(torch.float64) == x).all()):
        _refuse(f"{name} of float64", "NumPy's, which is the processor's: torch.from_numpy(np.sqrt(x.numpy()))")


def _sum(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if not (_integral(args[0]) and kwargs.get("dtype") in (None, *_INTEGERS)):
        _refuse(f"{name} of floats", _SUM)


def _accumulate(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if not _integral(args[0]) or kwargs.get("alpha", 1) != 1:
        _refuse(f"{name} of floats", _SUM)


def _put(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if (kwargs.get("accumulate") or (len(args) > 3 and args[3])) and not _integral(args[0]):
        _refuse(f"{name} that accumulates floats", _SUM)


def _integers_only(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    del kwargs
    if any(not _integral(x) for x in _tensors(args)):
        _refuse(f"{name} of floats", _OTHER)


def _convert(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """A float may become an integer if it is one that fits; other machines convert NaN and what overflows otherwise."""
    copying = name.startswith("copy")
    source = args[1] if copying else args[0]
    kind = args[0].dtype if copying else kwargs.get("dtype") or source.dtype
    if kind not in (*_FLOATS, *_INTEGERS):
        _refuse(f"a conversion to {kind}", "float32, float64 and integers")
    if isinstance(source, Tensor) and source.dtype in _FLOATS and kind in _INTEGERS and kind != torch.bool and source.numel():
        limits = torch.iinfo(kind)
        whole = source.to(torch.float64)
        if not bool(((whole >= limits.min) & (whole <= limits.max) & (whole < 2.0**63)).all()):
            _refuse(f"a conversion to {kind} of what does not fit", "clamp before: x.clamp(low, high).to(…)")


class Guard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, unlawful operations raise `NonPortableOperation` instead of running."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._depth = 0
        self._stack = ExitStack()
        self.operations = 0
        """Operations let through."""

    def __enter__(self) -> Self:
        for backend in products.BACKENDS.values():
            self._stack.enter_context(patch.object(backend, "times", self._inside(backend.times)))  # type: ignore[attr-defined]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._stack.close()

    def _inside(self, times: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Mark where a float64 product is lawful: in a back end."""

        @wraps(times)
        def marked(*args: Any) -> Tensor:
            self._depth += 1
            try:
                return times(*args)
            finally:
                self._depth -= 1

        return marked

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        self.check(func.overloadpacket.__name__, func._overloadname, args, kwargs)  # noqa: SLF001 - its public name is none
        self.operations += 1
        return func(*args, **kwargs)

    def check(self, operation: str, overload: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise `NonPortableOperation` unless this call is lawful."""
        name = operation[:-1] if operation.endswith("_") and not operation.endswith("__") else operation
        for x in _tensors((*args, *kwargs.values())):
            if x.dtype not in (*_FLOATS, *_INTEGERS):
                _refuse(f"{name} of {x.dtype}", "float32, float64 and integers")
        if name in _RULES:
            _RULES[name](name, args, kwargs)
        elif name in ("mm", "bmm", "_int_mm"):
            self._product(name, *args[:2])
        elif name.startswith(("_foreach_", "_fused_")):
            _refuse(name, "one tensor at a time, in separate operations")
        elif name not in _FREE or overload == "decimals":
            _refuse(name, _WAYS.get(name, _OTHER))

    def _product(self, name: str, left: Tensor, right: Tensor) -> None:
        if name == "_int_mm":
            if int(right.to(torch.int32).abs().max()) > _DIGIT_LIMIT:  # |−128| is −128 in int8
                _refuse(f"{name} with right digits beyond ±64", "digits of base 128 at the right (16-bit sums saturate)")
        elif _integral(left) and _integral(right):
            return
        elif name == "bmm" and left.dtype == right.dtype == torch.float64:
            if not (_whole(left) and _whole(right) and left.shape[-1] * _largest(left) * _largest(right) <= 1 << 53):
                _refuse(f"{name} of other than integers whose sums stay within 2^53", _PRODUCT)
        elif not self._depth or left.dtype != torch.float64:
            _refuse(f"{name} of {left.dtype}", _PRODUCT)
        elif left.shape[-1] > _INNER_LIMIT or not (_bounded(left, ACTIVATION_LIMIT) and _bounded(right, 1 << WEIGHT_BITS)):
            _refuse(f"{name} of other than small integers", "left within 2^14, right within 2^13, at most 2^20 terms")


def _whole(x: Tensor) -> bool:
    return bool((x.round() == x).all())


def _largest(x: Tensor) -> int:
    return int(x.abs().max()) if x.numel() else 0


def _bounded(x: Tensor, limit: int) -> bool:
    return _whole(x) and bool((x.abs() <= limit).all())


_RULES: Final[dict[str, Callable[[str, tuple[Any, ...], Mapping[str, Any]], None]]] = {
    **dict.fromkeys(("add", "sub", "rsub", "mul"), _arithmetic),
    "div": _divide,
    "sqrt": _root,
    **dict.fromkeys(("sum", "cumsum"), _sum),
    **dict.fromkeys(("index_add", "scatter_add"), _accumulate),
    **dict.fromkeys(("index_put", "_index_put_impl"), _put),
    **dict.fromkeys(("floor_divide", "remainder"), _integers_only),
    **dict.fromkeys(("_to_copy", "to", "copy"), _convert),
}
