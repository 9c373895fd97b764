"""What an operator writes of a kind of sandbox, and the kinds that are ready-made. A section of `perstackd.config`."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from perstackd.adapters.config_section import Section
from perstackd.domain.loosening import Loosening

MEMORY_MARGIN: Final = 256 << 20


class TemplateConfig(Section):
    """A kind of sandbox; sizes in bytes. See `domain.sandbox.Template`."""

    image: str = "perstack/base:latest"
    runtime: Literal["runc", "runsc"] = "runc"
    memory: int = Field(768 << 20, ge=64 << 20)
    cpus: float = Field(1.0, gt=0, le=1024)
    cpu_shares: int = Field(256, ge=2, le=262144)
    pids: int = Field(256, ge=16, le=32768)
    nofile: int = Field(1024, ge=256, le=65536)
    fsize: int = Field(1 << 30, ge=1 << 20)
    tmp_bytes: int = Field(64 << 20, ge=1 << 20)
    tmp_inodes: int = Field(16384, ge=64)
    home_bytes: int = Field(64 << 20, ge=1 << 20)
    home_inodes: int = Field(16384, ge=64)
    run_bytes: int = Field(4 << 20, ge=1 << 20)
    run_inodes: int = Field(1024, ge=64)
    shm_bytes: int = Field(1 << 20, ge=0)
    min_idle: int = Field(2, ge=0, le=1000)
    max: int = Field(16, ge=1, le=1000)
    grant: Literal["", "package-indexes"] = ""
    exceptions: tuple[Loosening, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> "TemplateConfig":
        least = self.tmp_bytes + self.home_bytes + self.run_bytes + self.shm_bytes + MEMORY_MARGIN
        if self.memory < least:
            raise ValueError(
                f"memory is {self.memory}, but the tmpfs sizes are charged to it: it must be at least {least} "
                f"(tmp + home + run + shm + {MEMORY_MARGIN >> 20} MiB)"
            )
        if self.min_idle > self.max:
            raise ValueError(f"min_idle {self.min_idle} is above max {self.max}")
        if self.exceptions and self.runtime != "runc":
            raise ValueError(f"exceptions ({', '.join(self.exceptions)}) are for runc, not for {self.runtime}")
        if len(set(self.exceptions)) < len(self.exceptions):
            raise ValueError("exceptions names one of them twice")
        return self


# What a section of that name begins with: npx and uvx put what they install into the home directory.
_FULL: Final[dict[str, Any]] = {"image": "perstack/full:latest", "pids": 1024, "nofile": 4096}
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "full": {
        **_FULL,
        "memory": 1536 << 20,
        "tmp_bytes": 256 << 20,
        "tmp_inodes": 65_536,
        "home_bytes": 512 << 20,
        "home_inodes": 131_072,
        "min_idle": 1,
        "max": 8,
    },
    "skills": {
        **_FULL,
        "memory": 1024 << 20,
        "home_bytes": 384 << 20,
        "home_inodes": 131_072,
        "grant": "package-indexes",
    },
}


def _preset(sections: Any) -> Any:
    if not isinstance(sections, Mapping):
        return sections
    return {
        name: {**PRESETS.get(name, {}), **section} if isinstance(section, Mapping) else section
        for name, section in sections.items()
    }


Templates = Annotated[dict[str, TemplateConfig], BeforeValidator(_preset)]
"""Sections by name."""
