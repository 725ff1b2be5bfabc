"""Loading plugins by path: a file's `CODES`, name to predictor class, into f's registry of codes.

A file is run as a module when a service, a worker or a command starts, never because of anything that came over a network.
"""

import hashlib
import os
import sys
import types
from pathlib import Path

from pydantic import ValidationError

from shared.code.errors import PluginError
from shared.code.models import Preset
from shared.code.models.base import Predictor
from shared.code.plugins import Plugin, register
from shared.code.spec import CodeSpec, PluginModel

_MAX_BYTES = 1 << 20


def load(paths: str | None) -> list[str]:
    """Register the codes of files, their paths separated as in PATH; returns their names. Raises `PluginError`."""
    names: list[str] = []
    for path in (paths or "").split(os.pathsep):
        if path:
            for plugin in _read(Path(path)):
                register(plugin)
                names.append(plugin.name)
    return names


def _read(path: Path) -> list[Plugin]:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise PluginError(str(path), (error.strerror or "cannot be read").lower()) from None
    if len(source) > _MAX_BYTES:
        raise PluginError(str(path), f"it has {len(source):,} bytes; at most {_MAX_BYTES:,} are read")
    digest = hashlib.sha256(source).hexdigest()
    module = types.ModuleType(f"codelength_plugin_{digest[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - a file that its user named
    except SyntaxError as error:
        raise PluginError(str(path), f"line {error.lineno}: {error.msg}") from None
    except Exception as error:  # noqa: BLE001 - somebody else's code: anything
        raise PluginError(str(path), f"loading it raised {type(error).__name__}: {str(error)[:300]}") from None
    codes = getattr(module, "CODES", None)
    if not isinstance(codes, dict) or not codes:
        raise PluginError(str(path), 'it defines no codes; write CODES = {"name": MyPredictor}')
    return [_plugin(path, name, made, source, digest) for name, made in codes.items()]


def _plugin(path: Path, name: object, made: object, source: bytes, digest: str) -> Plugin:
    if not isinstance(name, str):
        raise PluginError(str(path), f"CODES has the key {name!r}; a code's name is a string")
    if not (isinstance(made, type) and issubclass(made, Predictor)):
        raise PluginError(str(path), f"CODES[{name!r}] is no subclass of shared.code.models.base.Predictor")
    sizes = {key: getattr(made, key) for key in ("segment_tokens", "streams", "numerics") if hasattr(made, key)}
    memory = {key: getattr(made, key) for key in ("memory_mebibytes",) if hasattr(made, key)}
    summary = (made.__doc__ or "a predictor of one's own").strip().splitlines()[0]
    try:
        model = PluginModel(name=name, source=digest, **memory)
        CodeSpec(model=model, **sizes)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PluginError(name, f"{place}: {first['msg']}".removeprefix(": ")) from None
    return Plugin(preset=Preset(name=name, summary=summary, model=model, **sizes), make=made, source=source)
