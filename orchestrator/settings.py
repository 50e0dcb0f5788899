"""Settings: `orchestrator.toml` in the working folder (or `--config FILE`), overruled by `ORCHESTRATOR_…` variables.

Cloud credentials stay where the SDKs look for them (profiles, environment, instance roles); here they are only named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from orchestrator.jobs.notify import is_address
from orchestrator.levels import parse

CONFIG_FILE = "orchestrator.toml"


class CloudSettings(BaseModel):
    """One cloud account: its provider by name, and that provider's own options, which it checks itself."""

    model_config = ConfigDict(extra="allow")

    provider: str = "ec2"
    limiter: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Settings(BaseSettings):
    """Everything a master is told from outside."""

    model_config = SettingsConfigDict(env_prefix="ORCHESTRATOR_", env_nested_delimiter="__", extra="forbid")

    host: str = Field("127.0.0.1", description="address the master listens on")
    port: int = Field(8642, ge=0, le=65535, description="port the master listens on")
    agents_host: str | None = Field(None, description="address for the agents' calls alone; default: with the people's")
    agents_port: int | None = Field(None, ge=1, le=65535, description="port for the agents' calls alone; default: port")
    master_url: str | None = Field(
        None, description="the master as machines reach it; default: from (agents_)host and port"
    )
    data_dir: Path = Field(Path("orchestrator-data"), description="database, logs and keys of this master")
    database_url: str | None = Field(None, description="sqlite:///… or postgresql://…; default: SQLite in data_dir")
    tls: Literal["self-signed"] | None = Field(None, description="self-signed: make a certificate and keep it in data_dir")
    tls_cert: Path | None = Field(None, description="certificate (PEM); agents pin it")
    tls_key: Path | None = Field(None, description="key of the certificate (PEM)")
    secrets_key: Path | None = Field(None, description="file of the keys of secret parameters; default: in data_dir")
    look_s: float = Field(10.0, gt=0, description="the periodic look, which only heals: events wake the master at once")
    orphan_grace_s: float = Field(60.0, ge=0, description="how long a machine of ours without a row may stay")
    visibility_s: float = Field(60.0, ge=0, description="how long a cloud may take to show a new machine")
    log_limit_mb: float = Field(16.0, gt=0, description="largest log kept of one attempt")
    currency: str = Field("USD", max_length=20, description="what the prices of pools are in: any text")
    webhook_hosts: list[str] = Field(["*"], description="hosts that webhooks may go to; patterns such as *.example.org")
    webhook_secret: SecretStr | None = Field(None, description="signs webhooks; default: derived from the master's key")
    smtp_host: str | None = Field(None, description="the mail server; without one no e-mail leaves")
    smtp_port: int | None = Field(None, ge=1, le=65535, description="default: 587, 465 with tls, 25 without")
    smtp_tls: Literal["starttls", "tls", "none"] = Field("starttls", description="how the mail server is spoken to")
    smtp_user: str | None = Field(None, description="user of the mail server")
    smtp_password: SecretStr | None = Field(None, description="its password; better in the environment or a file")
    smtp_password_file: Path | None = Field(None, description="a file with the password, read at each message")
    mail_from: str | None = Field(None, description="sender of e-mails")
    log_retention_days: float = Field(90.0, ge=0, description="how long after their attempt's end logs are kept; 0: ever")
    artifact_limit_mb: float = Field(1000.0, gt=0, description="largest artifact")
    artifacts_limit_mb: float = Field(5000.0, gt=0, description="all artifacts of one attempt together")
    artifact_retention_days: float = Field(90.0, ge=0, description="as log_retention_days, for artifacts")
    files: str | None = Field(
        None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,62}(/[A-Za-z0-9!_.*'()/-]*)?$",
        description="where logs and artifacts are kept: s3://BUCKET/PREFIX; default: data_dir",
    )
    files_endpoint_url: str | None = Field(None, description="the S3-compatible store's own address; default: AWS's")
    session_h: float = Field(12.0, gt=0, le=8760, description="hours after which a person must log in again")
    trusted_proxies: list[str] = Field(
        default_factory=list, description="addresses or networks whose X-Forwarded-For and -Proto are believed"
    )
    allowed_hosts: dict[str, str] = Field(
        default_factory=dict, description="address or network: none, signal, info, no_add or all; default: all"
    )
    clouds: dict[str, CloudSettings] = Field(default_factory=dict, description="cloud accounts by name")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'orchestrator.db'}"

    @property
    def certificate(self) -> Path | None:
        """The certificate it serves with: the one named, or its own."""
        return self.data_dir / "tls.pem" if self.tls else self.tls_cert

    @property
    def certificate_key(self) -> Path | None:
        return self.data_dir / "tls.key" if self.tls else self.tls_key

    @property
    def secrets_file(self) -> Path:
        return self.secrets_key or self.data_dir / "secrets.key"

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"

    @property
    def agents_apart(self) -> tuple[str, int] | None:
        """Where the agents' calls come in, if not where the people's do."""
        if self.agents_host is None and self.agents_port is None:
            return None
        return self.agents_host or self.host, self.agents_port or self.port

    @property
    def url(self) -> str:
        """The master as machines reach it."""
        return self.master_url or self._url(*(self.agents_apart or (self.host, self.port)))

    @property
    def api_url(self) -> str:
        """The master as people and programs reach it."""
        return self._url(self.host, self.port) if self.agents_apart else self.url

    def _url(self, host: str, port: int) -> str:
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @field_validator("allowed_hosts")
    @classmethod
    def _levels(cls, value: dict[str, str]) -> dict[str, str]:
        parse(value)
        return value

    @model_validator(mode="after")
    def _one_certificate(self) -> Settings:
        if self.tls and self.tls_cert:
            raise ValueError("tls and tls_cert both name a certificate; leave one of them out")
        return self

    @model_validator(mode="after")
    def _agents_are_apart(self) -> Settings:
        apart, anywhere = self.agents_apart, ("0.0.0.0", "::")  # noqa: S104 - it is asked, not bound
        if apart and apart[1] == self.port and (apart[0] == self.host or {apart[0], self.host} & set(anywhere)):
            raise ValueError(
                f"agents_host and agents_port ({apart[0]}, {apart[1]}) are within the people's; set another port"
            )
        return self

    @model_validator(mode="after")
    def _machines_can_reach_it(self) -> Settings:
        host = (self.agents_apart or (self.host, self.port))[0]
        if host in ("0.0.0.0", "::") and not self.master_url:  # noqa: S104 - it is asked, not bound
            raise ValueError(f"with host {host} machines do not know where the master is; set master_url")
        return self

    @model_validator(mode="after")
    def _mail_can_be_sent(self) -> Settings:
        if self.mail_from is not None and not is_address(self.mail_from):
            raise ValueError("mail_from is not one e-mail address; write one such as orchestrator@example.org")
        if self.smtp_host is not None and self.mail_from is None:
            raise ValueError("smtp_host is set but nobody sends; set mail_from")
        if self.smtp_user is not None and self.smtp_tls == "none":
            raise ValueError("with smtp_tls none the password of smtp_user would cross the network in clear; use starttls")
        return self


def load(config: Path | None = None, **given: Any) -> Settings:
    """Settings from this file, or from `orchestrator.toml` here if there is one; `given` ones count before both.

    Raises on unknown or wrong values.
    """
    path = config or Path(CONFIG_FILE)
    if config is not None and not config.exists():
        raise FileNotFoundError(f"{config} does not exist; write it, or leave --config out to use {CONFIG_FILE}")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    return FromFile(**{name: value for name, value in given.items() if value is not None})
