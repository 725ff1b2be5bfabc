"""What can be configured, by environment variables that begin with CODELENGTH_, and the limits that hold unless changed."""

import os
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.code.models import PRESETS
from shared.service.errors import MAX_RANKS
from shared.service.kernels import default_cache_directory


def _default_state_directory() -> Path:
    root = os.environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "codelength"


class Settings(BaseSettings):
    """Settings of one service. A token, where set, is asked of every caller and shown to Bob by Alice."""

    model_config = SettingsConfigDict(env_prefix="CODELENGTH_", frozen=True)

    host: str = "127.0.0.1"
    port: int | None = Field(default=None, ge=0, le=65535, description="8001 for Alice and 8002 for Bob unless set")
    listen_fd: int | None = Field(default=None, description="an inherited listening socket, instead of host and port")
    state_directory: Path = Field(default_factory=_default_state_directory)
    cache_directory: Path = Field(default_factory=default_cache_directory)
    bob_url: str = Field(default="ws://127.0.0.1:8002", pattern=r"^wss?://[^/]+$")
    token: SecretStr | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_authority: Path | None = Field(
        default=None, description="whom Alice trusts to vouch for Bob, instead of the system's list"
    )

    products: str = Field(default="auto", description="back end of exact products: auto, float64 or int8; all give the same bits")
    device: str = Field(
        default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="where exact networks are computed; cpu or cuda, the same bits"
    )
    worker_threads: int = Field(default=1, ge=1, le=256, description="threads of one worker's products")

    ranks: int = Field(
        default=1,
        ge=1,
        le=MAX_RANKS,
        description="processes that share the streams of one network, if they divide them; the bits are the same",
    )

    warm: str | None = Field(
        default=None, description="presets, separated by commas, that workers load before a service is ready; all unless set"
    )

    plugins: str | None = Field(default=None, description="files of predictors of one's own, separated as in PATH")

    pretrained: str | None = Field(
        default=None, description="directories of pretrained models, separated as in PATH; needs the extra `pretrained`"
    )

    max_upload_bytes: int = Field(default=1 << 30, ge=1)
    max_tokens: int = Field(default=1 << 30, ge=1)
    max_model_bytes: int = Field(default=2 << 30, ge=1)
    max_training_tokens: int = Field(
        default=1 << 30, ge=0, description="that a code may train on before D: steps, segment and passes of replay together"
    )
    max_concurrent: int = Field(default=2, ge=1, description="transmissions coded at once; one worker process each")
    max_queued: int = Field(default=64, ge=1)
    max_connections_per_peer: int = Field(default=64, ge=1, description="channels that one address may hold open at Bob's")
    max_stored_bytes: int = Field(default=20 << 30, ge=1)
    max_snapshot_bytes: int = Field(default=2 << 30, ge=0, description="of models kept after training on a corpus; 0 for none")
    connect_timeout_seconds: float = Field(default=10.0, gt=0)
    keepalive_seconds: float = Field(default=20.0, gt=0, description="between two pings; a silent peer is lost after two")
    retry_seconds: float = Field(
        default=7 * 86400.0, ge=0, description="how long Alice goes on trying to reach Bob before she leaves it to her user"
    )

    @model_validator(mode="after")
    def _warm_is_known(self) -> Self:
        unknown = [name for name in (self.warm or "").split(",") if name and name not in PRESETS]
        if unknown and self.plugins is None and self.pretrained is None:  # names of these are known once loaded, see `starting`
            msg = f"CODELENGTH_WARM: no preset is called {', '.join(unknown)}; there are {', '.join(PRESETS)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            msg = "CODELENGTH_TLS_CERTIFICATE and CODELENGTH_TLS_KEY come together"
            raise ValueError(msg)
        return self
