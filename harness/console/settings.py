"""What can be configured of the console, by environment variables."""

from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK: Final = ("localhost", "127.0.0.1")


class ConsoleSettings(BaseSettings):
    """Settings of the console. hosts: the names, separated by commas, under which browsers may call it; * for any."""

    model_config = SettingsConfigDict(env_prefix="CODELENGTH_CONSOLE_", frozen=True, populate_by_name=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    listen_fd: int | None = None
    hosts: str = ""
    alice_url: str = Field(default="http://127.0.0.1:8001", pattern=r"^https?://[^/]+$")
    bob_url: str = Field(default="http://127.0.0.1:8002", pattern=r"^https?://[^/]+$")
    token: SecretStr | None = Field(default=None, validation_alias="CODELENGTH_TOKEN")
    tls_authority: Path | None = Field(default=None, validation_alias="CODELENGTH_TLS_AUTHORITY")

    @property
    def allowed_hosts(self) -> list[str]:
        """Host names that requests may name."""
        named = [one.strip() for one in self.hosts.split(",") if one.strip()]
        return [*LOOPBACK, self.host, *named]
